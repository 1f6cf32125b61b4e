"""Metric trackers get what the metrics files get, and never end a run."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtuner.errors import UsageError
from xtuner.preflight import check_inputs
from xtuner.run.layout import RunDir
from xtuner.v1.config import TrainerConfig
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.trackers import Trackers

# In a process of its own: these libraries start threads and services, and read the environment at import.
REPORT = """
import sys
from pathlib import Path
from xtuner.run.layout import RunDir
from xtuner.v1.config import TrainerConfig
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.trackers import Trackers
run_dir = RunDir.create(Path(sys.argv[2]))
trackers = Trackers((sys.argv[1],), TrainerConfig(), run_dir, RankLog(run_dir, 0))
trackers.evaluation(0, {"loss": 3.0})
for step in (1, 2, 3):
    trackers.step(step, {"lr": step / 8, "total_loss": float("nan") if step == 2 else 1 / step})
    trackers.evaluation(step, {"loss": 3.0 - step})
trackers.close()
"""


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path / "w")


@pytest.fixture
def log(run_dir):
    log = RankLog(run_dir, 0)
    yield log
    log.close()


def test_tensorboard_files_hold_the_values(run_dir, log):
    trackers = Trackers(("tensorboard", "tensorboard"), TrainerConfig(), run_dir, log)
    trackers.evaluation(0, {"loss": 3.0, "num_tokens": 12_345})
    trackers.step(1, {"lr": 0.5, "total_loss": 2.0})
    trackers.step(2, {"lr": 0.25, "total_loss": float("inf")})
    written = EventAccumulator(str(run_dir.path / "tensorboard")).Reload()  # flushed before the end of the run
    trackers.close()
    assert set(written.Tags()["scalars"]) == {"eval/loss", "eval/num_tokens", "train/lr", "train/total_loss"}
    assert [(event.step, event.value) for event in written.Scalars("train/lr")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in written.Scalars("eval/num_tokens")] == [(0, 12_345)]
    assert [event.value for event in written.Scalars("train/total_loss")] == [2.0, float("inf")]
    assert "WARNING" not in run_dir.rank_log(0).read_text()


def test_a_tracker_that_fails_is_a_warning_and_the_others_go_on(run_dir, log):
    broken = run_dir.path / "tensorboard"
    broken.write_text("a file where the directory should be")
    trackers = Trackers(("tensorboard",), TrainerConfig(), run_dir, log)
    trackers.step(1, {"lr": 0.5})
    trackers.close()
    lines = [line for line in run_dir.rank_log(0).read_text().splitlines() if "[WARNING]" in line]
    assert len(lines) == 1 and "tensorboard gets no more values of this run: " in lines[0]
    log.step(1, 1, dict.fromkeys(_step_keys(), 1.0))  # the log itself goes on


def _step_keys():
    from xtuner.run.logline import STEP_KEYS

    return STEP_KEYS


def test_a_tracker_whose_disk_is_full_is_given_up(tmp_path):
    """The kernel refuses bytes beyond 4 KiB of any file, as a full disk would."""
    program = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n{REPORT}"
    program = program.replace("(1, 2, 3)", "range(1, 60)")
    done = subprocess.run(
        [sys.executable, "-c", program, "tensorboard", str(tmp_path / "w")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tensorboard gets no more values of this run: OSError") == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_before_the_run(monkeypatch, tmp_path, name):
    """A directory of that name is no package: wandb leaves one where it runs."""
    (tmp_path / name).mkdir()
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    config = TrainerConfig(load_from=tmp_path, dataset=(tmp_path,), report_to=(name,))
    with pytest.raises(UsageError, match=f"--report-to {name} needs the package {name}") as caught:
        check_inputs(config, 1)
    assert caught.value.hint == f"pip install 'xtuner[{name}]'"


def _report(name, tmp_path, **environment):
    unset = {"WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"}
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", REPORT, name, str(tmp_path / "w")],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and done.stdout == ""
    [path] = (tmp_path / "w").iterdir()
    return RunDir(path)


def test_wandb_stays_on_this_machine_unless_asked(tmp_path):
    pytest.importorskip("wandb")
    run_dir = _report("wandb", tmp_path)
    [offline] = (run_dir.path / "wandb").glob("offline-run-*")
    [records] = offline.glob("run-*.wandb")
    assert records.stat().st_size > 0 and b"train/lr" in records.read_bytes()


def test_trackio_has_the_values_in_its_local_database(tmp_path):
    pytest.importorskip("trackio")
    _report("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "xtuner.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    values = [(step, key, value) for step, text in rows for key, value in json.loads(text).items()]
    assert {(1, "train/lr", 0.125), (3, "train/lr", 0.375), (0, "eval/loss", 3.0)} <= set(values)
    assert not any((step, key) == (2, "train/total_loss") for step, key, _ in values)

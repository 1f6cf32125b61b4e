"""Runs that die or are stopped go on from their checkpoint and end with the very weights of an undisturbed run."""

import hashlib
import os
import signal
import subprocess
import time

import pytest
from commands import BIN, ROOT, run

from xtuner.run.atomic import read_json
from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.run.status import read_status

_STEPS = 6


def _command(tiny_model, chats, work_dir, *more, ranks=2):
    return [
        *("xtuner", "sft", "--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", work_dir),
        *("--total-step", _STEPS, "--pack-max-length", 256, "--nproc-per-node", ranks, "--checkpoint-interval", 2),
        *more,
    ]


def _weights(work_dir):
    [run_dir] = list_runs(work_dir)
    return hashlib.sha256((run_dir.latest_export / "model.safetensors").read_bytes()).hexdigest()


def _steps(run_dir, rank=0):
    """Loss and gradient norm of each step, as the newest attempt to make it says."""
    records = [record for record in read_metrics(run_dir.rank_metrics(rank)) if "total_loss" in record]
    return {
        record["step"]: (record["total_loss"], record["reduced_llm_loss"], record["grad_norm"]) for record in records
    }


@pytest.fixture(scope="module")
def undisturbed(tiny_model, chats, tmp_path_factory):
    """Weights and steps of a run that nothing happens to."""
    work_dir = tmp_path_factory.mktemp("undisturbed")
    done = run(*_command(tiny_model, chats, work_dir))
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(work_dir)
    return _weights(work_dir), _steps(run_dir)


POINTS = [
    ("save.mkdir", 0, (2,)),
    ("save.tensors", 1, (2,)),
    ("save.written", 0, (2,)),
    ("save.fsync", 1, (2,)),
    ("save.manifest", 0, (2,)),
    ("save.rename.pre", 0, (2,)),
    ("save.rename.post", 0, (2, 4)),
]


@pytest.mark.parametrize(("point", "rank", "steps_left"), POINTS, ids=[point for point, *_ in POINTS])
def test_a_kill_in_the_second_save_costs_two_steps_at_most(
    tiny_model, chats, tmp_path, undisturbed, point, rank, steps_left
):
    nth = 3 if point == "save.fsync" else 2  # a rank makes two files durable in each save
    died = run(*_command(tiny_model, chats, tmp_path), env={"XTUNER_FAULT": f"{point}:rank={rank}:nth={nth}:SIGKILL"})
    assert died.returncode == 6 and "SIGKILL" in died.stderr
    [run_dir] = list_runs(tmp_path)
    left = list_checkpoints(run_dir)
    assert tuple(checkpoint.step for checkpoint in left) == steps_left
    assert [fault_of(checkpoint) for checkpoint in left] == [None] * len(left)

    resumed = run(*_command(tiny_model, chats, tmp_path, "--resume", "auto"))
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {run_dir.path} after step {steps_left[-1]}" in resumed.stderr
    weights, steps = undisturbed
    assert _weights(tmp_path) == weights
    assert _steps(run_dir) == steps
    assert not list(run_dir.checkpoints.glob(".tmp-*"))
    assert read_json(run_dir.run_json)["resumed"][0]["after_step"] == steps_left[-1]
    assert (run_dir.logs / "attempt_0").exists() and (run_dir.logs / "attempt_1").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--lora.rank", 4, "--lora.dropout", 0.2),
        ("--optimizer", "muon"),
        ("--tp-size", 2),
        ("--sp-size", 2, "--fsdp-config.recompute-ratio", 1),
    ],
    ids=["lora-dropout", "muon", "tp", "sp"],
)
def test_every_way_to_train_is_resumed_exactly(tiny_model, chats, tmp_path, options):
    whole, died = tmp_path / "whole", tmp_path / "died"
    done = run(*_command(tiny_model, chats, whole, *options))
    assert done.returncode == 0, done.stderr
    killed = run(*_command(tiny_model, chats, died, *options), env={"XTUNER_FAULT": "save.rename.post:nth=1:SIGKILL"})
    assert killed.returncode == 6, killed.stderr
    resumed = run(*_command(tiny_model, chats, died, *options, "--resume", "auto"))
    assert resumed.returncode == 0, resumed.stderr
    assert _weights(died) == _weights(whole)
    for rank in (0, 1):
        [of_whole], [of_died] = list_runs(whole), list_runs(died)
        assert _steps(of_died, rank) == _steps(of_whole, rank)


def test_other_numbers_of_ranks_go_on_with_the_same_rows(tiny_model, chats, tmp_path):
    common = ("--global-batch-size", 4)
    whole = run(*_command(tiny_model, chats, tmp_path / "whole", *common, ranks=1))
    assert whole.returncode == 0, whole.stderr
    fault = {"XTUNER_FAULT": "save.rename.post:rank=0:nth=1:SIGKILL"}
    for ranks in (1, 2, 4, 1):  # each goes on from the save of the one before, and dies after the next
        resume = ("--resume", "auto", "--checkpoint-interval", 1)
        last = run(*_command(tiny_model, chats, tmp_path / "split", *common, *resume, ranks=ranks), env=fault)
        assert last.returncode == 6, last.stderr
    done = run(*_command(tiny_model, chats, tmp_path / "split", *common, "--resume", "auto", ranks=2))
    assert done.returncode == 0, done.stderr
    [of_whole], [of_split] = list_runs(tmp_path / "whole"), list_runs(tmp_path / "split")
    expected, found = _steps(of_whole), _steps(of_split)
    assert expected.keys() == found.keys()
    for step, (_, loss, norm) in expected.items():
        assert found[step][1] == pytest.approx(loss, rel=1e-5)
        assert found[step][2] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("fault", ["save.written:rank=1:nth=1:enospc", "save.fsync:rank=0:nth=1:eio"])
def test_a_save_that_fails_costs_a_warning(tiny_model, chats, tmp_path, undisturbed, fault):
    done = run(*_command(tiny_model, chats, tmp_path), env={"XTUNER_FAULT": fault})
    assert done.returncode == 0, done.stderr
    assert "the checkpoint of step 2 could not be saved: rank" in done.stderr
    [run_dir] = list_runs(tmp_path)
    assert [checkpoint.step for checkpoint in list_checkpoints(run_dir)] == [4]
    assert not list(run_dir.checkpoints.glob(".tmp-*"))
    assert _weights(tmp_path) == undisturbed[0]


def _started(command):
    program, *arguments = map(str, command)
    return subprocess.Popen(
        [str(BIN / program), *arguments],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _stopped(command, number):
    """Start `command`, wait for its first step, send it a signal; exit code and what it said."""
    seen = []
    with _started(command) as process:
        for line in process.stderr:
            seen.append(line)
            if " Step 1/" in line:
                process.send_signal(number)
    return process.returncode, "".join(seen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_saves_and_stops(tiny_model, chats, tmp_path, number):
    long_run = ("--total-step", 2000, "--checkpoint-interval", 100_000, "--scheduler-type", "constant")
    code, said = _stopped(_command(tiny_model, chats, tmp_path, *long_run), number)
    assert code == 7, said
    [run_dir] = list_runs(tmp_path)
    [checkpoint] = list_checkpoints(run_dir)
    assert fault_of(checkpoint) is None
    status = read_status(run_dir)
    assert (status.state, status.exit_code, status.step) == ("stopped", 7, checkpoint.step)
    assert f"after step {checkpoint.step} of 2000; the state is saved" in said
    assert f"--resume {run_dir.path}" in said


def test_save_now_saves_without_stopping(tiny_model, chats, tmp_path):
    command = _command(tiny_model, chats, tmp_path, "--total-step", 100_000, "--checkpoint-interval", 100_000)
    with _started(command) as process:
        try:
            while not (runs := list_runs(tmp_path)) or not (status := read_status(runs[0])) or status.step < 2:
                assert process.poll() is None
                time.sleep(0.1)
            runs[0].save_now.touch()
            while not list_checkpoints(runs[0]) or runs[0].save_now.exists():
                assert process.poll() is None
                time.sleep(0.1)
            assert fault_of(list_checkpoints(runs[0])[0]) is None
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert process.returncode == 7


def test_other_data_is_refused(tiny_model, chats, tmp_path):
    fault = {"XTUNER_FAULT": "save.rename.post:nth=1:SIGKILL"}
    assert run(*_command(tiny_model, chats, tmp_path), env=fault).returncode == 6
    other = ("--resume", "auto", "--seed", 7)
    refused = run(*_command(tiny_model, chats, tmp_path, *other))
    assert refused.returncode == 4
    assert "seed 42 is now 7" in refused.stderr and "--allow-data-change" in refused.stderr
    allowed = run(*_command(tiny_model, chats, tmp_path, *other, "--allow-data-change"))
    assert allowed.returncode == 0 and "resumed with other data: " in allowed.stderr

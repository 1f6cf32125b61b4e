"""`--max-restarts`: ranks that fail are started again, go on from the newest checkpoint, and not for ever."""

import os

import pytest
from commands import BIN, run

from xtuner.errors import TrainingFailed
from xtuner.launch.job import Job
from xtuner.launch.supervise import run_to_end
from xtuner.run.atomic import read_json
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.metrics import read_metrics
from xtuner.run.supervision import read_supervision

# Rank 1 raises in step 3 of the first attempt, and is killed in step 5 of the second one.
FAULTS = """
import os, signal
if os.environ.get("RANK") == "1":
    from xtuner.run import metrics
    write, attempt = metrics.MetricsWriter.write, os.environ["TORCHELASTIC_RESTART_COUNT"]
    def broken(self, record):
        if (attempt, record.get("step")) == ("0", 3):
            raise ValueError("injected")
        if (attempt, record.get("step")) == ("1", 5):
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, record)
    metrics.MetricsWriter.write = broken
"""


def test_each_attempt_goes_on_from_the_newest_checkpoint(tiny_model, chats, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    flags = ["--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w", "--total-step", 6]
    flags += ["--nproc-per-node", 2, "--checkpoint-interval", 2, "--max-restarts", 5]
    done = run("xtuner", "sft", *flags, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "rank 1 failed in step 3: injected; restart 1 of 5, from the checkpoint of step 2" in done.stderr
    assert (
        "rank 1 was ended by SIGKILL and left no message; restart 2 of 5, from the checkpoint of step 4" in done.stderr
    )
    [run_dir] = list_runs(tmp_path / "w")
    assert [entry["after_step"] for entry in read_json(run_dir.run_json)["resumed"]] == [2, 4]
    kept = [(run_dir.attempt_logs(number) / "1" / "stderr.log").read_text() for number in range(3)]
    assert "injected" in kept[0] and " Step 4/6" in kept[1] and " Step 6/6" in kept[2] and len(kept) == 3
    for rank in (0, 1):
        records = read_metrics(run_dir.rank_metrics(rank))
        newest = {record["step"]: record["total_loss"] for record in records if "total_loss" in record}
        assert sorted(newest) == [1, 2, 3, 4, 5, 6]


SCRIPT = """
import json, os, sys, time
from pathlib import Path
from xtuner.run.checkpoints import commit, temporary_directory
from xtuner.run.layout import RunDir
run_dir = RunDir(Path(sys.argv[1]))
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
(run_dir.path / f"began-{attempt}").touch()
if attempt == 1:
    temporary = temporary_directory(run_dir, 10, "x")
    temporary.mkdir(parents=True)
    commit(run_dir, temporary, 10, [], {})
extra = {"rank": 0, "step": 11, "time": time.time(), "timestamp": "1", "exit_code": 6, "message": f"no {attempt}",
         "py_callstack": "Traceback\\n  line\\n", "hint": ""}
Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": {"message": "", "extraInfo": extra}}))
sys.exit(6)
"""


def test_after_three_restarts_without_a_new_checkpoint_it_gives_up(tmp_path):
    """torchrun itself, with ranks that fail as ours do and need no torch for it."""
    (tmp_path / "fails.py").write_text(SCRIPT)
    run_dir = RunDir.create(tmp_path / "w")
    log_dir = run_dir.logs / "torchrun"
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=1", "--max-restarts=20", "--redirects=3"]
    command += ["--monitor-interval=1", f"--log-dir={log_dir}", str(tmp_path / "fails.py"), str(run_dir.path)]
    said = []
    with pytest.raises(TrainingFailed) as caught:
        run_to_end(Job(tuple(command), log_dir, run_dir, 1, {}, 20), is_detached=False, say=said.append)
    gave_up = "gave up after 3 restarts without a new checkpoint (the newest is of step 10)"
    assert caught.value.message.startswith(f"{gave_up}: rank 0 failed in step 11: no 4\n  Traceback")
    assert [line.partition(";")[2] for line in said] == [
        " restart 1 of 20, from the beginning, as there is no checkpoint yet",
        *(f" restart {number} of 20, from the checkpoint of step 10" for number in (2, 3, 4)),
    ]
    assert said[0].startswith("rank 0 failed in step 11: no 0;")
    # One more may have begun before it was ended.
    assert len(list(run_dir.path.glob("began-*"))) in (5, 6)
    assert read_supervision(run_dir).exit_code == 6

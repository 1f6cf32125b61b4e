"""`--max-restarts`: ranks that fail are started again, go on from the newest checkpoint, and not for ever."""

import os

import pytest
from commands import BIN, run

from xtuner.errors import DataError, StoppedAndSaved, TrainingFailed
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
from xtuner.run.status import start_status, write_status
run_dir, case = RunDir(Path(sys.argv[1])), sys.argv[2]
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
(run_dir.path / f"began-{attempt}").touch()
code = {"wrong data": 4, "stopped": 7}.get(case, 6)
if case == "loop" and attempt == 1:
    temporary = temporary_directory(run_dir, 10, "x")
    temporary.mkdir(parents=True)
    commit(run_dir, temporary, 10, [], {})
if case == "stopped":
    status = dict(vars(start_status(9)), state="stopped", exit_code=7, message="stopped by SIGTERM after step 3")
    write_status(run_dir, type(start_status(9))(**status))
extra = {"rank": 0, "step": 11, "time": time.time(), "timestamp": "1", "exit_code": code, "message": f"no {attempt}",
         "py_callstack": "Traceback\\n  line\\n", "hint": ""}
Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": {"message": "", "extraInfo": extra}}))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("case", "error", "words", "num_attempts"),
    [
        ("loop", TrainingFailed, "gave up after 3 restarts without a new checkpoint (the newest is of step 10)", 5),
        ("wrong data", DataError, "no 0", 1),
        ("stopped", StoppedAndSaved, "stopped by SIGTERM after step 3", 1),
    ],
)
def test_restarts_that_lead_nowhere_are_not_made(tmp_path, case, error, words, num_attempts):
    """torchrun itself, with ranks that fail as ours do and need no torch for it."""
    (tmp_path / "fails.py").write_text(SCRIPT)
    run_dir = RunDir.create(tmp_path / "w")
    log_dir = run_dir.logs / "torchrun"
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=1", "--max-restarts=20", "--redirects=3"]
    command += ["--monitor-interval=1", f"--log-dir={log_dir}", str(tmp_path / "fails.py"), str(run_dir.path), case]
    job = Job(tuple(command), log_dir, run_dir, num_ranks=1, max_restarts=20)
    said = []
    with pytest.raises(error) as caught:
        run_to_end(job, is_detached=False, say=said.append)
    assert words in caught.value.message
    # One more may have begun before it was ended.
    assert len(list(run_dir.path.glob("began-*"))) in (num_attempts, num_attempts + 1)
    assert len(said) == num_attempts - 1
    assert read_supervision(run_dir).exit_code == error.exit_code
    if case == "loop":
        assert f"rank 0 failed in step 11: no {num_attempts - 1}\n  Traceback" in caught.value.message
        assert (
            said[0]
            == "rank 0 failed in step 11: no 0; restart 1 of 20, from the beginning, as there is no checkpoint yet"
        )
        assert said[1].endswith("restart 2 of 20, from the checkpoint of step 10")

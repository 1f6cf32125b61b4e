"""`--max-restarts`: ranks that fail are started again, go on from the newest checkpoint, and not for ever."""

import json
import os
import subprocess

import pytest
from commands import BIN, ROOT, run
from processes import end_all, wait_for

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


# Rank 0 raises in step 3 of the first attempt, is killed in step 4 of the second one, and raises in the third one.
# torchrun, before it starts ranks again, says so by a file and waits for another one.
GAPS = """
import os, signal, sys, time
if any(it.endswith("torchrun") for it in sys.orig_argv[:3]):
    from torch.distributed.elastic.agent.server.api import SimpleElasticAgent as Agent
    restart, gaps = Agent._restart_workers, iter(range(100))
    def late(self, group):
        number = next(gaps)
        open(f"{os.environ['GAPS']}/gap{number}", "w").close()
        while not os.path.exists(f"{os.environ['GAPS']}/go{number}"):
            time.sleep(0.05)
        restart(self, group)
    Agent._restart_workers = late
elif os.environ.get("RANK") == "0":
    from xtuner.run import metrics
    write, attempt = metrics.MetricsWriter.write, os.environ["TORCHELASTIC_RESTART_COUNT"]
    def broken(self, record):
        if (attempt, record.get("step")) == ("1", 4):
            os.kill(os.getpid(), signal.SIGKILL)
        if (attempt, record.get("step")) in (("0", 3), ("2", 4)):
            raise ValueError(f"injected {attempt}")
        write(self, record)
    metrics.MetricsWriter.write = broken
"""


def test_between_two_attempts_a_run_is_restarting_and_whoever_follows_it_stays(tiny_model, chats, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GAPS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    work_dir = tmp_path / "w"
    flags = ["--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", work_dir, "--total-step", 6]
    flags += ["--nproc-per-node", 1, "--checkpoint-interval", 2, "--max-restarts", 2]
    started = []

    def start(*command, **environment):
        with (tmp_path / f"{command[0]}.log").open("wb") as output:
            command = [str(BIN / "xtuner"), *map(str, command)]
            environment = {**os.environ, "NO_COLOR": "1", **environment}
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            )
        return started[-1]

    try:
        start("sft", *flags, PYTHONPATH=path, GAPS=str(tmp_path))
        followers = []
        for number, told in enumerate(("rank 0 failed in step 3: injected 0", "rank 0 was ended by SIGKILL")):
            wait_for((tmp_path / f"gap{number}").exists)
            followers = followers or [start("attach", work_dir), start("monitor", work_dir, "--plain")]
            for command in ("attach", "monitor"):
                wait_for(lambda name=f"{command}.log": "following" in (tmp_path / name).read_text())
            # Of a rank that was killed the launcher leaves it, at its next look.
            wait_for(list_runs(work_dir)[0].failure_note(0).exists)
            looked = run("xtuner", "monitor", work_dir, "--json")
            seen = json.loads(looked.stdout)
            assert (seen["state"], looked.returncode) == ("restarting", 1)
            [alert] = [alert for alert in seen["alerts"] if alert["kind"] in ("restarting", "failed", "lost")]
            assert alert["text"].startswith(told) and alert["text"].endswith(f", restart {number + 1} of 2")
            assert json.loads(run("xtuner", "runs", work_dir, "--json").stdout)["runs"][0]["state"] == "restarting"
            assert [process.poll() for process in started] == [None] * 3
            (tmp_path / f"go{number}").touch()
        assert [process.wait() for process in started] == [6, 6, 6]
    finally:
        end_all(work_dir)
        for process in started:
            process.wait()
    assert "rank 0 failed in step 4: injected 2" in (tmp_path / "attach.log").read_text()
    assert "the run is failed at step 4/6" in (tmp_path / "monitor.log").read_text()
    ended = run("xtuner", "monitor", work_dir, "--json")
    assert (json.loads(ended.stdout)["state"], ended.returncode) == ("failed", 6)


SCRIPT = """
import json, os, sys, time
from pathlib import Path
from xtuner.run.checkpoints import commit, temporary_directory
from xtuner.run.layout import RunDir
from xtuner.run.supervision import read_supervision
run_dir = RunDir(Path(sys.argv[1]))
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
while read_supervision(run_dir).num_restarts < attempt:  # else the checkpoint could be there before it is looked for
    time.sleep(0.02)
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

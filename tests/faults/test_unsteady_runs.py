"""Runs in which one rank's step comes to nothing: its loss is no number, or it does not go on."""

import os
import signal

import pytest
from commands import BIN, run
from forked_ranks import ForkServer
from processes import processes_of

from xtuner.launch.job import Job
from xtuner.launch.supervise import run_to_end
from xtuner.run.checkpoints import fault_of, list_checkpoints, sha256_of
from xtuner.run.failure import read_failures
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.metrics import read_metrics
from xtuner.run.status import read_status


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ForkServer(tmp_path_factory.mktemp("outputs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def options(tiny_model, chats):
    """The options of a run of four steps in a work dir, which saves after each."""

    def of(work_dir, *more):
        return [
            *("--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", work_dir),
            *("--total-step", 4, "--pack-max-length", 256, "--checkpoint-interval", 1, "--checkpoint-maxkeep", 9),
            *more,
        ]

    return of


def _state_of(checkpoint):
    """What the tensors of a checkpoint hash to: weights and optimizer state of both ranks."""
    return [sha256_of(path) for path in sorted(checkpoint.tensors.glob("*.distcp"))]


def _weights(run_dir):
    return sha256_of(run_dir.latest_export / "model.safetensors")


# --- A loss that is no number, on one rank of two ---


def test_a_skipped_step_changes_nothing_and_is_remembered(server, options, tmp_path):
    skip = ("--on-nonfinite", "skip", "--max-nonfinite-skips", 1)
    done = server.run(*options(tmp_path / "whole", *skip), fault="loss:rank=1:nth=2:nan")
    assert set(done.codes) == {0}, done.output
    [whole] = list_runs(tmp_path / "whole")
    states = [_state_of(checkpoint) for checkpoint in list_checkpoints(whole)]
    assert len(states) == 3 and len(states[0]) == 2 and states[0] == states[1] != states[2]
    for rank in (0, 1):
        assert "step 2 is skipped: the loss is nan and the gradient norm nan (rank 1, pack 1 of 1: " in (
            whole.rank_log(rank).read_text()
        )
        assert [record["step"] for record in read_metrics(whole.rank_metrics(rank)) if "skipped" in record] == [2]
    # One more such step is one too many, also for a run that goes on in another process, with weights as ever.
    arguments = options(tmp_path / "died", *skip)
    died = server.run(*arguments, fault="loss:rank=1:nth=2:nan;save.rename.post:rank=0:nth=2:SIGKILL")
    assert -signal.SIGKILL in died.codes
    ended = server.run(*arguments, "--auto-resume", fault="loss:rank=0:nth=2:nan")
    assert set(ended.codes) == {6} and "; 1 skipped before, as many as" in ended.output, ended.output
    done = server.run(*arguments, "--auto-resume")
    [died] = list_runs(tmp_path / "died")
    assert set(done.codes) == {0} and _weights(died) == _weights(whole), done.output


def test_a_run_stops_at_such_a_step_by_default(server, options, tmp_path, chats):
    ended = server.run(*options(tmp_path), fault="loss:rank=1:nth=3:nan")
    assert set(ended.codes) == {6}, ended.output
    [run_dir] = list_runs(tmp_path)
    found = "the loss is nan and the gradient norm nan (rank 1, pack 1 of 1: "
    status = read_status(run_dir)
    assert (status.state, status.step) == ("failed", 2) and status.message.startswith(f"{found}{chats}:")
    for rank in (0, 1):
        assert f"step 3: TrainingFailed: {found}" in run_dir.rank_log(rank).read_text()
    newest = list_checkpoints(run_dir)[-1]
    assert newest.step == 2 and fault_of(newest) is None


# --- A rank that does not go on ---

HANG = ("--hang-timeout", "5s")  # the first two steps have six times as long


def _require_stacks(run_dir, rank, *names):
    said = run_dir.rank_log(rank).read_text()
    assert "most recent call first" in said and all(name in said for name in names), said


def test_a_rank_that_is_blocked_is_named_and_all_stacks_are_kept(server, options, tmp_path):
    ended = server.run(*options(tmp_path, *HANG), fault="step:rank=1:nth=3:sleep=600")
    assert ended.codes == (6, 6), ended.output
    [run_dir] = list_runs(tmp_path)
    status = read_status(run_dir)
    assert (status.state, status.exit_code, status.step) == ("failed", 6, 2)
    assert status.message.startswith("hung: no progress for ")
    assert "rank 1 lags behind in step 3 (waiting for its batch); the others wait in step 3 (forward" in status.message
    _require_stacks(run_dir, 0, "in train_step", "in fit")
    _require_stacks(run_dir, 1, "in _act", "in fit")
    [failure] = {(it.rank, it.step, it.message.partition(" s;")[2]) for it in read_failures(run_dir.failures)}
    assert failure[:2] == (1, 3)
    assert list_checkpoints(run_dir)[-1].step == 2


def test_a_rank_that_is_stopped_is_named_by_the_others(server, options, tmp_path):
    """Rank 0 is the one that is stopped: another one writes the status in its place."""
    started = server.start(*options(tmp_path, *HANG), fault="step:rank=0:nth=3:SIGSTOP")
    started.wait_until_it_says("[ERROR] hung: ")
    started.send(signal.SIGKILL, ranks=[0])
    assert started.wait().codes == (-signal.SIGKILL, 6)
    [run_dir] = list_runs(tmp_path)
    status = read_status(run_dir)
    assert status.state == "failed"
    assert "; rank 0 hangs: its process is stopped (SIGSTOP); last seen in " in status.message
    assert "; the others wait in step 3 (forward and backward pass); " in status.message
    _require_stacks(run_dir, 1, "in train_step")


@pytest.mark.skipif("XTUNER_LONG_FAULTS" not in os.environ, reason="waits for a minute: `make faults` runs it")
def test_ranks_that_cannot_end_themselves_are_ended_and_started_again(options, tmp_path):
    """Both are stopped in the third step of the first attempt; the second one has but two."""
    arguments = options(tmp_path, *HANG, "--max-restarts", 1, "--nproc-per-node", 2)
    done = run("xtuner", "sft", *arguments, env={"XTUNER_FAULT": "step:nth=3:SIGSTOP"})
    assert done.returncode == 0, done.stderr
    assert "hung: no progress for " in done.stderr and "its process is stopped (SIGSTOP)" in done.stderr
    assert "; restart 1 of 1, from the checkpoint of step 2" in done.stderr
    [run_dir] = list_runs(tmp_path)
    assert read_status(run_dir).state == "finished" and not processes_of(tmp_path)


# A rank that is stopped in its first attempt, and needs no torch for it.
SCRIPT = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from xtuner.run.layout import RunDir
from xtuner.run.pulse import own_pulse, write_pulse
run_dir = RunDir(Path(sys.argv[1]))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    write_pulse(run_dir, replace(own_pulse(0, 0.1), step=11, phase="save", patience_s=0.1))
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_the_launcher_ends_a_rank_that_cannot_end_itself(tmp_path):
    """torchrun itself, which starts the rank again."""
    (tmp_path / "hangs.py").write_text(SCRIPT)
    run_dir = RunDir.create(tmp_path / "w")
    log_dir = run_dir.logs / "torchrun"
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=1", "--max-restarts=1", "--redirects=3"]
    command += [f"--log-dir={log_dir}", str(tmp_path / "hangs.py"), str(run_dir.path)]
    said = []
    run_to_end(Job(tuple(command), log_dir, run_dir, 1, {}, 1), is_detached=False, say=said.append)
    assert len(said) == 1 and said[0].startswith("rank 0 failed in step 11: hung: no progress for "), said
    assert "its process is stopped (SIGSTOP); last seen in step 11 (save)" in said[0] and "restart 1 of 1" in said[0]


def test_long_evaluations_and_saves_are_waited_for(server, options, tmp_path, chats):
    """Each of them takes longer than the timeout, on one rank; that the same wait in a step is found, see above."""
    evaluation = ("--eval-dataset", chats, "--eval-interval", 3, "--eval-max-packs", 6)
    batches = ";".join(f"eval.batch:rank=1:nth={number}:sleep=2" for number in (4, 5, 6))
    faults = f"{batches};save.written:rank=1:nth=3:sleep=6"
    done = server.run(*options(tmp_path, *HANG, *evaluation), fault=faults)
    assert set(done.codes) == {0} and "no progress" not in done.output, done.output

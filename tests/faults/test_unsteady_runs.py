"""Runs in which one rank's step comes to nothing: its loss is no number, or it does not go on."""

import signal

import pytest
from forked_ranks import ForkServer

from xtuner.run.checkpoints import fault_of, list_checkpoints, sha256_of
from xtuner.run.layout import list_runs
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
    assert set(ended.codes) == {6} and "1 steps were skipped before" in ended.output, ended.output
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

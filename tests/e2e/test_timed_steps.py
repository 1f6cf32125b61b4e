"""`xtuner plan --time-steps`: real steps, real figures, nothing left behind."""

import json
import os
import signal
import subprocess
import time

import psutil
import pytest
from commands import BIN, ROOT, run
from processes import is_running


@pytest.fixture
def flags(tiny_model, chats, tmp_path):
    return [
        "--load-from",
        tiny_model("qwen3"),
        "--dataset",
        chats,
        "--pack-max-length",
        512,
        "--work-dir",
        tmp_path / "w",
    ]


@pytest.fixture
def scratch(tmp_path):
    """Where timing has its directory."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


def test_steps_are_timed_and_nothing_stays(flags, scratch, tmp_path):
    done = run(
        *("xtuner", "plan", *flags, "--nproc-per-node", 2, "--epoch-num", 3, "--checkpoint-interval", 1, "--json"),
        *("--time-steps", 2),
        env={"TMPDIR": str(scratch)},
    )
    assert done.returncode == 0, done.stderr
    timing = json.loads(done.stdout)["timing"]
    assert timing["num_timed"] == 2 and timing["step_time_s"] > 0
    assert 100 < timing["tokens_per_s"] * timing["step_time_s"] <= 2 * 512  # of both ranks
    # What the run itself would do: the packs of three epochs, two a step.
    assert timing["total_steps"] % 3 == 0 and timing["total_steps"] > 3
    assert timing["duration_s"] == pytest.approx(timing["total_steps"] * timing["step_time_s"])
    assert "step 3 of 3" in done.stderr
    assert not (tmp_path / "w").exists() and not list(scratch.glob("xtuner-*"))


def test_a_signal_ends_it_without_a_trace(flags, scratch, tmp_path):
    command = [BIN / "xtuner", "plan", *flags, "--time-steps", "1000000"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as plan:
        assert plan.stderr is not None
        lines = iter(plan.stderr.readline, "")
        assert any(line.startswith("step 1 of") for line in lines)
        family = psutil.Process(plan.pid).children(recursive=True)
        assert len(family) >= 2  # torchrun and its rank
        plan.send_signal(signal.SIGTERM)
        said = plan.stderr.read()
    assert plan.returncode == 8 and "the timing was cancelled" in said
    deadline = time.monotonic() + 60
    while any(map(is_running, family)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (tmp_path / "w").exists() and not list(scratch.glob("xtuner-*"))


def test_what_cannot_be_timed_is_refused(flags, tmp_path):
    done = run("xtuner", "plan", *flags, "--time-steps", 2, "--device-memory", 80)
    assert done.returncode == 2 and "--device-memory 80 are both given" in done.stderr
    done = run("xtuner", "plan", *flags, "--time-steps", 2, "--nnodes", 2)
    assert done.returncode == 2 and "--nnodes 2 machines cannot be timed" in done.stderr

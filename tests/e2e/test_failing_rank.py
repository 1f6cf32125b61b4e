"""A rank that dies, and signals to the launcher."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from commands import BIN, ROOT, run
from processes import children_of, is_running, kill, wait_until_gone

from xtuner.run.layout import list_runs


@pytest.fixture
def running(tiny_model, chats, tmp_path):
    """A run of two ranks that has begun to train, and would go on for long."""
    command = [BIN / "xtuner", "sft", "--load-from", tiny_model("llama"), "--dataset", chats, "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*map(str, command), "--total-step", "100000", "--work-dir", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        _wait(lambda: any(" Step 3/" in _read(run.rank_log(0)) for run in list_runs(tmp_path)), process)
        yield process, list_runs(tmp_path)[0], _ranks(process)
    finally:
        kill(children_of(process.pid, "") if process.poll() is None else [])
        process.kill()
        process.communicate()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _wait(condition, process, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)


def _ranks(process) -> list[psutil.Process]:
    ranks = [child for child in children_of(process.pid, "sft.py") if "RANK" in child.environ()]
    return sorted(ranks, key=lambda child: int(child.environ()["RANK"]))


def test_a_killed_rank_is_named_once(running):
    process, _, ranks = running
    ranks[1].kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 6
    errors = stderr[stderr.index("error:") :]
    assert "rank 1" in errors and "SIGKILL" in errors and "hint:" in errors and len(errors.splitlines()) < 30
    assert not any(map(is_running, ranks))


def test_a_rank_that_raises_is_told_with_step_and_traceback(tiny_model, chats, tmp_path):
    """Rank 1 raises in step 3; rank 0 only notices that its connection breaks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from xtuner.run import metrics\n"
        "    write = metrics.MetricsWriter.write\n"
        "    def broken(self, record):\n"
        "        if record['step'] == 3:\n"
        "            raise ValueError('injected \\x1b[31m')\n"
        "        write(self, record)\n"
        "    metrics.MetricsWriter.write = broken\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    flags = ["--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w"]
    done = run("xtuner", "sft", *flags, "--nproc-per-node", 2, "--total-step", 9, env={"PYTHONPATH": path})
    errors = done.stderr[done.stderr.index("error:") :]
    assert done.returncode == 6
    assert "rank 1 failed in step 3: injected \\x1b" in errors and "ValueError" in errors and "rank_log.py" in errors
    assert "\x1b" not in errors and len(errors.splitlines()) < 30


@pytest.mark.parametrize("number", [signal.SIGINT])  # the others: tests/faults/test_resumed_runs.py
def test_a_signal_to_the_launcher_ends_the_ranks(running, number):
    process, run_dir, ranks = running
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 7 and number.name in stderr and "Traceback" not in stderr[stderr.index("error:") :]
    assert json.loads(run_dir.status_json.read_text())["state"] == "stopped"
    assert not any(map(is_running, ranks))


def test_ranks_do_not_outlive_a_killed_torchrun(running):
    process, _, ranks = running
    ranks[0].parent().kill()
    wait_until_gone(ranks)
    assert process.wait(timeout=120) == 6

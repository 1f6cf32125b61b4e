"""Every screen of the dashboard, of one run and at one time: what is new on them is seen in the diff of a text file.

UPDATE_SNAPSHOTS=1 pytest tests/unit/tui/test_monitor_snapshots.py
"""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from monitor_runs import BEGUN, healthy_run
from monitor_screen import SIZES, drive

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAME = "20250829-090000-0000"
BEGUN_AT = 1_756_458_000.0  # of the run, in UTC
NOW = BEGUN_AT + 2_000
SCREENS = {
    "overview": ["1"],
    "one chart": ["enter"],
    "ranks": ["enter", "2"],
    "logs": ["3"],
    "alerts": ["4"],
    "an alert": ["enter"],
    "run": ["escape", "5"],
    "help": ["question_mark"],
    "runs": ["escape", "r"],
}


@pytest.fixture
def work_dir(tmp_path, monkeypatch):
    """A run whose every time and path is known."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert BEGUN.timestamp() == BEGUN_AT
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))
    writer = healthy_run(Path("work"), num_ranks=3)
    writer.add_steps(1, lambda rank, step: {"reduced_llm_loss": float("nan")})
    writer.add_steps(5)
    writer.set_state("finished", pid=4242, host="host", started_at=BEGUN_AT, heartbeat_at=NOW - 10, step_at=NOW - 20)
    writer.run.path.rename(f"work/{NAME}")
    for path in Path("work").rglob("*"):
        os.utime(path, (NOW - 20, NOW - 20))
    yield Path("work")
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_screens(work_dir, size):
    shown = []

    async def steps(screen):
        for name, keys in SCREENS.items():
            await screen.press(*keys)
            if name == "logs":
                await screen.until_shown("Step 306/1000")
                while not screen.pane._source.is_complete:  # how many lines are counted by then is a matter of speed
                    await screen.press("home")
                await screen.press("f")
            lines = [line.rstrip() for line in screen.lines]
            shown.append("\n".join([f"==== {name} ====", *lines, ""]))

    drive(steps, work_dir, size)
    path = SNAPSHOTS / f"monitor-{size[0]}x{size[1]}.txt"
    text = "\n".join(shown)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")

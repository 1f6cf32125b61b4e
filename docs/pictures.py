"""Pictures of the dashboard for the documentation, from a run that is trained for them.

    python docs/pictures.py [RUN_OR_WORK_DIR]

Without a path, `xtuner demo` trains on this machine first (two processes, a minute or two). Writes
docs/images/monitor-*.svg.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from textual.pilot import Pilot

from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.runs import RunList

IMAGES = Path(__file__).resolve().parent / "images"
# name, size, and the keys that lead there
PICTURES = (
    ("monitor-overview", (120, 36), ("1",)),
    ("monitor-ranks", (120, 30), ("2",)),
    ("monitor-logs", (120, 24), ("3", "ampersand", *"rank 1", "enter")),
    ("monitor-small", (80, 24), ("1",)),
)
# The pictures' fonts come from the reader's machine: a page of documentation loads nothing from elsewhere.
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    """Train if there is no run yet, and take the pictures."""
    if len(sys.argv) > 1:
        take_pictures(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "xtuner", "demo", "--keep", directory, "--steps", "120"]
        subprocess.run(command, check=True)
        os.chdir(directory)  # pictures show paths
        take_pictures(Path("work_dirs"))


def take_pictures(path: Path) -> None:
    """Write all pictures of the newest run behind `path`."""
    IMAGES.mkdir(exist_ok=True)
    for name, size, keys in PICTURES:
        picture = asyncio.run(_take(path, size, keys))
        (IMAGES / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(IMAGES / f"{name}.svg")


async def _take(path: Path, size: tuple[int, int], keys: tuple[str, ...]) -> str:
    app = MonitorApp(RunList(path))
    async with app.run_test(size=size) as pilot:
        await _settle(app, pilot)
        await pilot.press(*keys)
        await _settle(app, pilot)
        app.title = "xtuner monitor"
        return _WEB_FONTS.sub("", app.export_screenshot(title="xtuner monitor"))


async def _settle(app: MonitorApp, pilot: Pilot[None]) -> None:
    """Until all of the run was read and shown."""
    end = time.monotonic() + 3
    while app.session is None or app.session.is_behind or time.monotonic() < end:
        await pilot.pause(0.1)


if __name__ == "__main__":
    main()

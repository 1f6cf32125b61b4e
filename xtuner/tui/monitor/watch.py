"""The ways into the dashboard; the caller has checked that there is a terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path

from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.runs import RunList, newest_run

# The reader's thread computes; with Python's 5 ms, each of the screen's many short turns would wait that long.
_SWITCH_S = 0.001


def watch(path: Path, compared: Sequence[Path] = ()) -> None:
    """Show the newest run behind `path` until the user leaves.

    Args:
        path: a work dir, a run, or logs.
        compared: the newest run behind each is drawn beside it.

    Raises:
        UsageError: a path leads to no run.
        EnvironmentFault: one cannot be read.
    """
    _run(MonitorApp(RunList(path), [newest_run(other) for other in compared]))


def watch_launched(run: Path) -> bool:
    """Show a run that was launched just now; whether the user wants it stopped, and not only to leave.

    Raises:
        UsageError, EnvironmentFault: as `watch`.
    """
    from xtuner.tui.monitor.launched import LaunchedApp

    app = LaunchedApp(RunList(run))
    _run(app)
    return app.wants_stop


def _run(app: MonitorApp) -> None:
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        app.run()
    finally:
        sys.setswitchinterval(switch_s)
    if app.crash is not None:
        raise app.crash

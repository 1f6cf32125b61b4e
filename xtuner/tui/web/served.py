"""The dashboard of one browser window, a process of its own: served.py PATH [COMPARED ...].

textual-serve starts it, with a driver that speaks through its pipes.
"""

import os
import sys
from pathlib import Path

from xtuner.run.orphan import end_with_parent
from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.runs import RunList, newest_run

# A browser draws braille and colours, whatever the terminal can that the server was started from.
_BROWSER = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


class ServedApp(MonitorApp):
    """The dashboard without the one key that writes files: they would be on another machine than the reader."""

    def action_export(self) -> None:
        """Say what does."""
        self.say("nothing is written from a browser: xtuner monitor WORK_DIR --report DIR")


def main(path: str, *compared: str) -> None:
    """Show the newest run behind `path`, beside those behind `compared`, until the window is closed."""
    end_with_parent(os.getppid())
    os.environ.update(_BROWSER)
    app = ServedApp(RunList(Path(path)), [newest_run(Path(other)) for other in compared])
    app.run()
    if app.crash is not None:
        raise app.crash


if __name__ == "__main__":
    main(*sys.argv[1:])

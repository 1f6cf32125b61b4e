"""Whether there is a terminal that a screen can be drawn on."""

import os
import sys


def has_screen() -> bool:
    """Whether stdin, stdout and stderr are a terminal that draws, and its keys are for this process.

    Without keys a screen could not be left, stderr is what Textual draws on, and a job in the background of a shell
    would be stopped at its first look at the keyboard.
    """
    ends = (sys.stdin, sys.stdout, sys.stderr)
    is_terminal = all(end is not None and end.isatty() for end in ends)
    return is_terminal and os.environ.get("TERM") != "dumb" and _has_keys()


def _has_keys() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal without job control
        return True

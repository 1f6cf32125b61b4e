"""The only printer: data goes to stdout, talk to stderr.

Every string that came from outside (paths, file contents, exception text) passes `visible` first, so that a
file name cannot move the cursor, set a title or write to the clipboard.
"""

import json
import os
import sys
from typing import Any, TextIO

from xtuner.errors import XTunerError
from xtuner.run.text import json_safe, visible

_RED, _YELLOW, _BOLD, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"


def data(text: str) -> None:
    """Write one piece of data to stdout."""
    print(visible(text), flush=True)


def painted(text: str) -> None:
    """Write to stdout what has been made safe and coloured already, piece by piece."""
    print(text, flush=True)


def stream(text: str) -> None:
    """Write a part of a line to stdout, which has been made safe already."""
    print(text, end="", flush=True)


def data_json(value: Any) -> None:
    """Write one JSON document to stdout; what a terminal would act on is escaped, as JSON allows."""
    print(json_safe(json.dumps(value, indent=2, ensure_ascii=False, default=str)), flush=True)


def say(text: str = "") -> None:
    """Tell the user something, on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Warn the user, on stderr."""
    print(f"{_paint('warning:', _YELLOW)} {visible(text)}", file=sys.stderr, flush=True)


def show_error(error: XTunerError) -> None:
    """`error: what`, then, after a blank line, `hint: the way out`."""
    print(f"{_paint('error:', _RED)} {visible(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"\n{_paint('hint:', _BOLD)} {visible(error.hint)}", file=sys.stderr)
    sys.stderr.flush()


def _paint(word: str, colour: str) -> str:
    return f"{colour}{word}{_RESET}" if wants_colour(sys.stderr) else word


def wants_colour(stream: TextIO) -> bool:
    """Colour only on a terminal, and never against `NO_COLOR` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

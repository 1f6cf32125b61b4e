"""Which lines of a log are wanted, by level, rank and pattern."""

import re
from dataclasses import dataclass

from xtuner.run.logline import LINE
from xtuner.tui.widgets.log_view import level_of

LEVELS = ("all", "warning", "error")
_LOUD = {"all": (), "warning": ("warning", "error"), "error": ("error",)}
# A pattern that takes long on long lines must not hold up the screen.
_MAX_CHARS = 2_000


def compile_pattern(text: str) -> re.Pattern[str] | None:
    """A regular expression in any case; None for nothing.

    Raises:
        re.error: it is none.
    """
    return re.compile(text, re.IGNORECASE) if text else None


def is_loud(text: str) -> bool:
    """Whether a line is a warning, an error, or the beginning of a traceback."""
    return level_of(text) in ("warning", "error")


@dataclass(frozen=True)
class LineFilter:
    """What a line must be to be shown.

    Attributes:
        level: at least this one; lines without a head, such as those of tracebacks, are as loud as it gets.
        rank: named in its head; for a log in which the lines of all ranks are mixed.
        pattern: found in it.
    """

    level: str = LEVELS[0]
    rank: int | None = None
    pattern: re.Pattern[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether every line passes."""
        return self == LineFilter()

    def passes(self, text: str) -> bool:
        """Whether the line is shown."""
        text = text[:_MAX_CHARS]
        if self.pattern is not None and not self.pattern.search(text):
            return False
        wanted = _LOUD[self.level]
        if wanted and level_of(text) not in wanted and (_has_head(text) or not text.strip()):
            return False
        return self.rank is None or f"[RANK {self.rank}]" in text[:32]


def _has_head(text: str) -> bool:
    return LINE.match(text) is not None

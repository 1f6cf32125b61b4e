"""What a log view asks of the lines it shows."""

from typing import Protocol


class LineSource(Protocol):
    """Lines by number."""

    def bounds(self) -> tuple[int, int]:
        """The first line that is known and the one after the last; both only move outwards."""

    def read(self, number: int) -> str:
        """The text of a line, without its line end; an OSError says that it cannot be read."""

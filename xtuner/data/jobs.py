"""What a worker is asked to do; apart from the worker, whose module has another name in its own process."""

from dataclasses import dataclass
from pathlib import Path

from xtuner.data.lines import Chunk
from xtuner.data.options import FormatName


@dataclass(frozen=True)
class Job:
    """One chunk to work on."""

    chunk: Chunk
    path: Path
    format: FormatName

    @property
    def where(self) -> str:
        """File and lines."""
        return f"{self.path}:{self.chunk.numbers[0]} to {self.chunk.numbers[-1]}"

    @property
    def num_bytes(self) -> int:
        """Bytes of its rows."""
        return sum(map(len, self.chunk.lines))


@dataclass(frozen=True)
class ShowJob:
    """One row to be shown."""

    line: bytes
    where: str
    format: FormatName
    is_last: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of the row."""
        return len(self.line)

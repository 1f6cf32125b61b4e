"""What reading the files of a run gives, as one stream; a reader is told where the numbers come from."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xtuner.run.blocks import StepBlock, read_log, read_metrics_block, read_others
from xtuner.run.discover import RunFiles
from xtuner.run.logindex import Parts, parts_of
from xtuner.run.logline import LogLine
from xtuner.run.tail import TailBlock

_MAX_TEXT_CHARS = 4096


class Steps(NamedTuple):
    """Steps of one rank.

    Attributes:
        block: the steps.
        is_precise: whether they are from the rank's metrics.
        is_history: whether they are from before what was read first.
        written_at: when the file was written last, for what was in it when it was first read; None for what came since.
    """

    block: StepBlock
    is_precise: bool
    is_history: bool
    written_at: float | None = None


class Said(NamedTuple):
    """A line that is no step line, and where it stands."""

    path: Path
    rank: int | None
    begin: int
    content: LogLine | str
    is_history: bool

    @property
    def text(self) -> str:
        """What it says, without its head."""
        return self.content if isinstance(self.content, str) else self.content.text


class Read(NamedTuple):
    """A stretch of a text log was read."""

    path: Path
    parts: Parts


class Gap(NamedTuple):
    """A file was truncated or replaced: what was read of it is no longer there."""

    path: Path
    rank: int | None


class Found(NamedTuple):
    """The files of the run are others than before: ranks joined, an attempt began."""

    files: RunFiles


Event = Steps | Said | Read | Gap | Found


class Source(NamedTuple):
    """A file of a run: the metrics or the text log of a rank; the rank is None where only the lines tell it."""

    path: Path
    rank: int | None
    is_metrics: bool

    def events_of(
        self, block: TailBlock, *, is_history: bool, skips_steps: bool = False, written_at: float | None = None
    ) -> Iterator[Event]:
        """What stands in a `block` of the file.

        Args:
            block: whole lines.
            is_history: whether later ones were read before.
            skips_steps: whether the steps of a text log are known from elsewhere, with more digits.
            written_at: see `Steps`.
        """
        if self.is_metrics:
            for steps in read_metrics_block(block.data, self.rank or 0):
                yield Steps(steps, True, is_history, written_at)
            return
        yield Read(self.path, parts_of(block))
        if skips_steps:
            others = read_others(block.data)
        else:
            found = read_log(block.data, self.rank)
            others = found.others
            for steps in found.steps:
                yield Steps(steps, False, is_history, written_at)
        for line in others:
            yield Said(self.path, self.rank, block.begin + line.begin, _shorten(line.content), is_history)


def _shorten(content: LogLine | str) -> LogLine | str:
    if isinstance(content, str):
        return content[:_MAX_TEXT_CHARS]
    return content if len(content.text) <= _MAX_TEXT_CHARS else content._replace(text=content.text[:_MAX_TEXT_CHARS])

"""The health of a data set: everything `preview` reports, gathered in one pass over the rows or over a sample."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xtuner.data.chat import Chat
from xtuner.data.checks import check_chat
from xtuner.data.counts import DataCounts
from xtuner.data.formats import read_row
from xtuner.data.jobs import Job
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import Chunk, LineReader, ReadNotes
from xtuner.data.options import FormatName
from xtuner.data.packing import plan_packs
from xtuner.data.pool import WorkerPool
from xtuner.data.prepare import settle_format
from xtuner.data.problems import Problem, ProblemLog, RowError
from xtuner.data.profile import RowProfile
from xtuner.data.rows import ChunkResult
from xtuner.data.sources import DataFile

SAMPLE_BYTES = 2**28  # what is read closely of data that is larger
_TEXT_GROWTH = 5  # about how much compressed chats grow
_NO_SPECIAL_TOKENS = re.compile("(?!)")
PERCENTILES = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}


@dataclass
class FileHealth:
    """One file: its format, what was accepted while reading, and how many lines it has."""

    path: str
    format: FormatName
    notes: ReadNotes


@dataclass
class Health:
    """What was found.

    Attributes:
        files: one entry a file.
        counts, problems, profile: of the rows that were looked at.
        lengths: int32 [sequences], tokens of each after the length limit; empty without a tokenizer.
        every: one chunk of so many was looked at; 1 is all.
    """

    files: list[FileHealth] = field(default_factory=list)
    counts: DataCounts = field(default_factory=DataCounts)
    problems: ProblemLog = field(default_factory=ProblemLog)
    profile: RowProfile = field(default_factory=RowProfile)
    lengths: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    every: int = 1

    @property
    def num_rows(self) -> int:
        """Rows of all files, looked at or not."""
        return sum(file.notes.num_lines - file.notes.num_blank for file in self.files)

    def token_percentiles(self) -> dict[str, int]:
        """Tokens of a row before the length limit: smallest, middle, largest; empty without a tokenizer."""
        tokens = np.asarray(self.profile.row_tokens)
        if not len(tokens):
            return {}
        values = np.percentile(tokens, list(PERCENTILES.values()), method="nearest")
        return dict(zip(PERCENTILES, map(int, values), strict=True))


@dataclass(frozen=True)
class PackForecast:
    """What packing will make of the data.

    Attributes:
        num_packs: packs of an epoch; scaled up from a sample.
        waste: share of the packs' room that stays empty, 0 to 1.
        steps_per_epoch: optimizer steps of an epoch.
    """

    num_packs: int
    waste: float
    steps_per_epoch: int


def forecast_packs(health: Health, pack_length: int, global_batch_size: int) -> PackForecast | None:
    """The packs of `health`'s rows; None when there is nothing to pack."""
    if not len(health.lengths):
        return None
    num_packs = len(plan_packs(health.lengths, pack_length))
    waste = 1 - float(health.lengths.sum()) / (num_packs * pack_length)
    scaled = round(num_packs * max(1.0, health.num_rows / max(1, health.counts.rows)))
    return PackForecast(scaled, waste, -(-scaled // global_batch_size))


def examine(
    files: list[DataFile], pool: WorkerPool | None, *, reads_all: bool = False, on_rows: Callable[[int], None]
) -> Health:
    """Look at the rows of `files`; rows in error are counted and looked past.

    Args:
        files: what to read.
        pool: workers with a profile in their spec; None looks at the rows without a tokenizer.
        reads_all: look at every row, however large the data is.
        on_rows: called with the number of rows looked at so far.

    Raises:
        DataError: a file cannot be read to its end.
    """
    health = Health(every=1 if reads_all else _sampling(files))
    lengths: list[NDArray[np.int32]] = []
    for file in files:
        reader = LineReader(file)
        health.files.append(FileHealth(str(file.path), "auto", reader.notes))
        with ExitStack() as stack:
            for result in _results(file, reader, pool, health, stack):
                health.counts.add(result.counts)
                health.problems.merge(result.problems)
                lengths.append(result.lengths)
                if result.profile is not None:
                    health.profile.add(result.profile)
                on_rows(health.counts.rows)
    health.lengths = np.concatenate([np.empty(0, np.int32), *lengths])
    if duplicates := health.profile.num_duplicates:
        health.problems.add(Problem("DUPLICATE_ROW", f"{duplicates:,} rows say the same as an earlier one"), duplicates)
    return health


def _sampling(files: list[DataFile]) -> int:
    num_bytes = sum(file.state.size * (1 if file.kind in ("jsonl", "array") else _TEXT_GROWTH) for file in files)
    return max(1, -(-num_bytes // SAMPLE_BYTES))


def _results(
    file: DataFile, reader: LineReader, pool: WorkerPool | None, health: Health, stack: ExitStack
) -> Iterator[ChunkResult]:
    chunks = reader.chunks()
    first = next(chunks, None)
    if first is None:
        return
    try:
        format = settle_format(file, first)
    except RowError:
        format = "auto"  # each row says for itself what is wrong with it
    health.files[-1].format = format
    sampled = (chunk for chunk in itertools.chain([first], chunks) if chunk.number % health.every == 0)
    if pool is not None:
        yield from pool.run(Job(chunk, file.path, format) for chunk in sampled)
    else:
        yield from (_read_only(chunk, file, format) for chunk in sampled)


def _read_only(chunk: Chunk, file: DataFile, format: FormatName) -> ChunkResult:
    """What can be known of rows without a tokenizer."""
    counts, problems, profile = DataCounts(rows=len(chunk.lines)), ProblemLog(), RowProfile()
    for index, (number, line) in enumerate(zip(chunk.numbers, chunk.lines, strict=True)):
        where = f"{file.path}:{number}"
        is_last = chunk.ends_file and index == len(chunk.lines) - 1
        try:
            value = parse_line(line, where, is_last=is_last)
            row = read_row(value, format, where)
        except RowError as error:
            counts.rows_in_error += 1
            problems.add(Problem(error.code, error.message, error.hint))
            continue
        profile.add_value(value)
        profile.add_row(row)
        if isinstance(row, Chat):
            for problem in check_chat(row, _NO_SPECIAL_TOKENS):
                problems.add(problem)
            if not row.assistant_turns:
                counts.without_reply += 1
                problems.add(Problem("NO_REPLY", f"{where}: no assistant message to train"))
    nothing = np.empty(0, np.int32)
    return ChunkResult(
        nothing, np.empty(0, np.bool_), nothing, nothing, np.empty(0, np.int64), counts, problems, profile
    )


def to_json(health: Health, forecast: PackForecast | None) -> dict[str, Any]:
    """The report for scripts; the keys are stable."""
    counts, profile = health.counts, health.profile
    return {
        "files": [
            {"path": file.path, "format": file.format, "accepted": file.notes.sentences()} for file in health.files
        ],
        "rows": health.num_rows,
        "rows_examined": counts.rows,
        "rows_in_error": counts.rows_in_error,
        "turns": {str(turns): rows for turns, rows in sorted(profile.turns.items())},
        "roles": dict(profile.roles),
        "scripts": dict(profile.scripts),
        "rows_with_tools": profile.with_tools,
        "rows_with_reasoning": profile.with_reasoning,
        "rows_with_empty_reply": profile.empty_replies,
        "duplicate_rows": profile.num_duplicates,
        "tokens_per_row": health.token_percentiles(),
        "tokens": counts.tokens,
        "trained_tokens": counts.trained_tokens,
        "overlong": counts.overlong,
        "tokens_cut": counts.tokens_cut,
        "sequences": counts.sequences,
        "replies": counts.replies,
        "replies_ended": counts.replies_ended,
        "packing": None
        if forecast is None
        else {
            "packs": forecast.num_packs,
            "waste": round(forecast.waste, 6),
            "steps_per_epoch": forecast.steps_per_epoch,
        },
        "problems": health.problems.to_json(),
    }

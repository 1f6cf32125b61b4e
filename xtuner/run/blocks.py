"""Thousands of lines of a rank log or a metrics file at once, as columns of numbers.

Our own step lines are all alike but for their digits. So the digits of a whole block of lines are taken away, what
is left is compared with as many copies of the first line's rest, and where that is the same, the digits alone are
cut into words: the same words of each line form a column. A block that is not alike is read line by line, by the
same parser that reads single lines; both give the same numbers.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from operator import add
from typing import Any, NamedTuple

from xtuner.run.logline import LINE, LogLine, StepLine, parse
from xtuner.run.metrics import parse_records

_NUMERIC = b"0123456789.-"
_OTHERS_TO_BLANKS = bytes(byte if byte in _NUMERIC else 0x20 for byte in range(256))
_NUMBER = re.compile(r"[0-9.\-]+", re.ASCII)
_VALUE = re.compile(r"[^\s:]+: (-?[0-9]+(?:\.[0-9]+)?)(?=\s)", re.ASCII)
# A number of a metrics record, as it stands between its key and what follows, and any other in its place.
_JSON_NUMBER = re.compile(rb"(?<=: )(?:-?[0-9][0-9.e+\-]*|\"nan\"|\"-?inf\")(?=[,}])")
_ANY_NUMBER = rb"(-?[0-9][0-9.e+\-]*|\"nan\"|\"-?inf\")"
_MAX_UNIFORM_LINE = 4096
# To find out how a line is laid out takes as long as to read some.
_MIN_UNIFORM_LINES = 4
_MAX_STEP_DIGITS = 12
_TWO_DIGITS = {b"%02d" % number: number for number in range(60)}
_MINUTES = {word: 60 * number for word, number in _TWO_DIGITS.items()}
_MAX_KNOWN, _MAX_KNOWN_KEYS = 4096, 32
_MAX_HEAD = 80
# What a metrics record holds besides its values.
_POSITION_KEYS = ("step", "total_steps", "timestamp")


_known: "dict[str, _Known]" = {}
_known_in_records: "dict[str, _Known]" = {}


class StepBlock(NamedTuple):
    """Steps of one rank, in the order of the file; each array has one number a step, NaN for what a step lacks."""

    rank: int
    steps: "array[float]"
    times: "array[float]"  # seconds since the epoch
    values: "dict[str, array[float]]"
    total_steps: int
    epoch: int | None = None


class OtherLine(NamedTuple):
    """A line that is no step line: where it begins in the block, and what it says; a LogLine where it has a head."""

    begin: int
    content: LogLine | str


class Block(NamedTuple):
    """What stood in a block of whole lines."""

    steps: list[StepBlock]
    others: list[OtherLine]


def read_log(lines: bytes, rank: int | None) -> Block:
    """The whole `lines` of a text log; `rank` is that of its file, for lines that have none, else they count as 0."""
    uniform = _read_uniform(lines, rank)
    if uniform:
        return Block([uniform], [])
    step_lines: dict[bytes, list[tuple[int, bytes]]] = {}
    nameless = b"[XTuner][RANK %d" % (rank or 0)
    others: list[OtherLine] = []
    for begin, line in _with_positions(lines):
        if _is_step(line):
            # A console has the lines of all ranks mixed; `[XTuner][RANK 3` is what tells them apart.
            who = line[:_MAX_HEAD].partition(b"][2")[0]
            step_lines.setdefault(nameless if who == b"[XTuner" else who, []).append((begin, line))
        elif line:
            others.append(_other(begin, line))
    steps = [block for same_rank in step_lines.values() for block in _read_step_lines(same_rank, rank, others)]
    return Block(steps, sorted(others, key=lambda line: line.begin))


def read_others(lines: bytes) -> list[OtherLine]:
    """Only the lines that are no step lines: enough where the metrics file has the numbers."""
    first = lines[: lines.find(b"\n") + 1]
    if _is_step(first) and _is_uniform(lines, first):
        return []
    return [_other(begin, line) for begin, line in _with_positions(lines) if line and not _is_step(line)]


def read_metrics_block(lines: bytes, rank: int) -> list[StepBlock]:
    """The records of steps among whole `lines` of a metrics file.

    Older versions wrote several records a step, one a value; they become one step.
    """
    uniform = _read_uniform_records(lines, rank)
    if uniform:
        return [uniform]
    records: list[dict[str, Any]] = []
    for record in parse_records(lines):
        step = record.get("step")
        if not isinstance(step, int | float) or step != step:
            continue
        if records and records[-1]["step"] == step and len(records[-1].keys() & record.keys()) == 1:
            records[-1].update(record)
        else:
            records.append(record)
    return list(_to_blocks(map(_of_record, records), rank))


def _read_uniform_records(lines: bytes, rank: int) -> StepBlock | None:
    """The block of records as we write them, the same keys in the same order and numbers alone; else None.

    Nearly all of the time is the conversion of seventeen digits: a dictionary a record would double it.
    """
    first = lines[: lines.find(b"\n") + 1]
    if not 0 < len(first) <= _MAX_UNIFORM_LINE or len(lines) < _MIN_UNIFORM_LINES * len(first):
        return None
    records = parse_records(first)
    keys = tuple(records[0]) if records else ()
    between = _JSON_NUMBER.split(first)
    if keys[:3] != _POSITION_KEYS or len(between) != len(keys) + 1:
        return None  # another order, or a value that is no number
    rows = re.compile(b"(?m)^" + _ANY_NUMBER.join(map(re.escape, between))).findall(lines)
    if len(rows) != lines.count(b"\n"):
        return None
    steps, totals, times, *columns = zip(*rows, strict=True)
    if not _are_steps(steps) or not _are_steps(totals):
        return None
    try:
        values = {
            key: _to_floats(key, column, _known_in_records) for key, column in zip(keys[3:], columns, strict=True)
        }
        return StepBlock(rank, _array_of(map(float, steps)), _array_of(map(float, times)), values, int(totals[-1]))
    except ValueError:
        return None


def _are_steps(words: Sequence[bytes]) -> bool:
    return b"".join(words).isdigit() and len(max(words, key=len)) <= _MAX_STEP_DIGITS


class _Step(NamedTuple):
    step: float
    total_steps: int
    time: float
    epoch: int | None
    rank: int | None
    values: dict[str, float]


def _of_record(record: dict[str, Any]) -> _Step:
    values = {
        key: value
        for key, value in record.items()
        if key not in _POSITION_KEYS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    total_steps, time = record.get("total_steps"), record.get("timestamp")
    return _Step(
        record["step"],
        total_steps if isinstance(total_steps, int) else 0,
        float(time) if isinstance(time, int | float) else float("nan"),
        None,
        None,
        values,
    )


def _read_step_lines(
    lines: list[tuple[int, bytes]], rank: int | None, others: list[OtherLine]
) -> "Iterator[StepBlock]":
    uniform = _read_uniform(b"".join(line + b"\n" for _, line in lines), rank)
    if uniform:
        yield uniform
        return
    steps = []
    for begin, line in lines:
        parsed = parse(_decode(line), rank)
        if isinstance(parsed, StepLine):
            time = parsed.time.timestamp()
            steps.append(_Step(parsed.step, parsed.total_steps, time, parsed.epoch, parsed.rank, dict(parsed.values)))
        else:
            others.append(OtherLine(begin, parsed or _decode(line)))
    yield from _to_blocks(steps, rank or 0)


def _to_blocks(steps: Iterable[_Step], rank: int) -> "Iterator[StepBlock]":
    """Steps in a row with the same keys and rank become one block."""
    same: list[_Step] = []
    for step in steps:
        if same and not (
            same[-1].values.keys() == step.values.keys() and (same[-1].rank, same[-1].epoch) == (step.rank, step.epoch)
        ):
            yield _to_block(same, rank)
            same = []
        same.append(step)
    if same:
        yield _to_block(same, rank)


def _to_block(steps: list[_Step], rank: int) -> StepBlock:
    first = steps[0]
    return StepBlock(
        rank=rank if first.rank is None else first.rank,
        steps=array("d", [step.step for step in steps]),
        times=array("d", [step.time for step in steps]),
        values={key: array("d", [step.values[key] for step in steps]) for key in first.values},
        total_steps=steps[-1].total_steps,
        epoch=first.epoch,
    )


class _Layout(NamedTuple):
    """Which of the numbers of a line mean what, by their position among them."""

    num_numbers: int
    date: int
    step: int
    constant: list[int]
    values: dict[str, int]
    line: StepLine


def _read_uniform(lines: bytes, rank: int | None) -> StepBlock | None:
    """The steps of `lines` if these are step lines that differ in their digits alone, else None."""
    first = lines[: lines.find(b"\n") + 1]
    if not 0 < len(first) <= _MAX_UNIFORM_LINE or len(lines) < _MIN_UNIFORM_LINES * len(first):
        return None
    layout = _layout_of(first) if _is_uniform(lines, first) else None
    if layout is None:
        return None
    num_lines = lines.count(b"\n")
    words = lines.translate(_OTHERS_TO_BLANKS).split()
    if len(words) != num_lines * layout.num_numbers:
        return None  # somewhere digits are missing
    try:
        return _read_columns(words, num_lines, layout, rank)
    except (ValueError, KeyError, OverflowError, OSError):
        return None


def _is_uniform(lines: bytes, first: bytes) -> bool:
    return lines.translate(None, _NUMERIC) == first.translate(None, _NUMERIC) * lines.count(b"\n")


def _is_step(line: bytes) -> bool:
    head = line[:_MAX_HEAD]
    return b"] Step " in head or b"] Epoch " in head


def _layout_of(first: bytes) -> _Layout | None:
    try:
        text = first.decode("ascii")
    except UnicodeDecodeError:
        return None
    head, line = LINE.match(text), parse(text)
    if head is None or not isinstance(line, StepLine):
        return None
    number_at = {match.start(): index for index, match in enumerate(_NUMBER.finditer(text))}
    found = {match[0].partition(":")[0]: match for match in _VALUE.finditer(text, head.end())}
    values = {key: number_at[match.start(1)] for key, match in found.items() if match.start(1) in number_at}
    if {key: float(found[key][1]) for key in values} != line.values:
        return None  # a value is not a plain number, or the line has more to it
    date, step = number_at[head.start(2)], number_at[head.start(6)]
    changing = {*range(date, date + 4), step, step + 1, *values.values()}
    constant = [index for index in range(len(number_at)) if index not in changing]
    return _Layout(len(number_at), date, step, constant, values, line)


def _read_columns(words: list[bytes], num_lines: int, layout: _Layout, rank: int | None) -> StepBlock | None:
    def column(index: int) -> list[bytes]:
        return words[index :: layout.num_numbers]

    if any(column(index).count(words[index]) != num_lines for index in layout.constant):
        return None  # the rank or the epoch changes, or a key
    steps, totals = column(layout.step), column(layout.step + 1)
    if not _are_steps(steps) or not _are_steps(totals):
        return None
    return StepBlock(
        rank=(rank or 0) if layout.line.rank is None else layout.line.rank,
        steps=_array_of(map(float, steps)),
        times=_read_times(*(column(layout.date + part) for part in range(4))),
        values={key: _to_floats(key, column(index), _known) for key, index in layout.values.items()},
        total_steps=int(totals[-1]),
        epoch=layout.line.epoch,
    )


class _Known(dict[bytes, float]):
    """Numbers of a key that were converted before: with three decimals, a loss has a few hundred values."""

    def __missing__(self, word: bytes) -> float:
        number = float(word)
        if len(self) < _MAX_KNOWN:
            self[word] = number
        return number


def _array_of(numbers: Iterable[float]) -> "array[float]":
    """An array of a list is filled at once, one of an iterator grows: a fifth of the time."""
    return array("d", list(numbers))


def _to_floats(key: str, words: Sequence[bytes], known_keys: "dict[str, _Known]") -> "array[float]":
    known = known_keys.get(key)
    if known is None and len(known_keys) < _MAX_KNOWN_KEYS:
        known = known_keys[key] = _Known()
    # A key with so many values seldom says one twice.
    number = float if known is None or len(known) >= _MAX_KNOWN else known.__getitem__
    try:
        return _array_of(map(number, words))
    except ValueError:
        return array("d", [float(word.strip(b'"')) for word in words])  # "nan"


def _read_times(dates: list[bytes], hours: list[bytes], minutes: list[bytes], seconds: list[bytes]) -> "array[float]":
    days_and_hours = list(map(add, dates, hours))
    starts = {which: _hour_start(which) for which in set(days_and_hours)}
    in_hour = map(add, map(_MINUTES.__getitem__, minutes), map(_TWO_DIGITS.__getitem__, seconds))
    return _array_of(map(add, map(starts.__getitem__, days_and_hours), in_hour))


@lru_cache(maxsize=1024)
def _hour_start(which: bytes) -> float:
    """When an hour of local time began, in seconds since the epoch: `2025-08-2909` is nine o'clock."""
    text = which.decode("ascii")
    return datetime.fromisoformat(f"{text[:10]} {text[10:]}:00:00").timestamp()


def _with_positions(lines: bytes) -> Iterator[tuple[int, bytes]]:
    begin = 0
    for line in lines.split(b"\n"):
        yield begin, line
        begin += len(line) + 1


def _other(begin: int, line: bytes) -> OtherLine:
    text = _decode(line)
    parsed = parse(text)
    return OtherLine(begin, parsed if isinstance(parsed, LogLine) else text)


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "backslashreplace")

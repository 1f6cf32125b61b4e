"""The step line of the rank logs, written and parsed here and nowhere else.

    [XTuner][RANK 2][2025-08-29 09:17:51][INFO] Step 1/100 data_time: 0.0578 lr: 0.000020 time: 4.9770 ...

The parser also reads neighbouring dialects: no `[RANK n]`, `Epoch 1 Step 12/100`, commas between the pairs,
`eta: 1 day, 2:03:04`, `nan`, unknown keys.
"""

import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# The values of our own line, in their order; a metrics record may have more.
STEP_KEYS = (
    "data_time",
    "lr",
    "time",
    "text_tokens",
    "total_loss",
    "reduced_llm_loss",
    "max_memory",
    "reserved_memory",
    "grad_norm",
    "tgs",
    "e2e_tgs",
)
_DECIMALS = {
    "lr": 6,
    "text_tokens": 1,
    "total_loss": 3,
    "reduced_llm_loss": 3,
    "max_memory": 2,
    "reserved_memory": 2,
    "grad_norm": 3,
    "tgs": 1,
    "e2e_tgs": 1,
}
_OTHER_DECIMALS = 4
_IN_GB = ("max_memory", "reserved_memory")
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

# Head and, where there is one, the step. No part repeats another, so that a match takes time linear in the line.
LINE = re.compile(
    r"\[XTuner\](?:\[RANK (\d{1,7})\])?\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\]\[(\w{1,16})\] ?"
    r"((?:Epoch (\d{1,9}) )?Step (\d{1,12})/(\d{1,12})(?= |,|$))?",
    re.ASCII,
)
_ETA = re.compile(r"\beta: (?:(-?\d{1,6}) days?, )?(\d{1,6}):(\d\d):(\d\d)", re.ASCII)
_RANK_FILE = re.compile(r"rank_?(\d{1,7})\.log", re.ASCII)
# The values of a longer line are read up to here; a step line is a few hundred characters.
_MAX_VALUES_CHARS = 16_384


class StepLine(NamedTuple):
    """One step of one rank: `values` in the order of the line; times in seconds, memory in GiB, `eta` in seconds."""

    step: int
    total_steps: int
    values: Mapping[str, float]
    time: datetime
    rank: int | None = None
    epoch: int | None = None
    level: str = "INFO"


class LogLine(NamedTuple):
    """Any other line of a rank log."""

    text: str
    time: datetime
    rank: int | None = None
    level: str = "INFO"


def format_log(text: str, level: str, time: datetime, rank: int | None) -> str:
    """One line of a rank log, without its line end; line ends in `text` become `\\n` and `\\r`.

    A text with line ends, a file name for example, could otherwise pass for lines of its own.
    """
    who = "" if rank is None else f"[RANK {rank}]"
    one_line = text.replace("\n", "\\n").replace("\r", "\\r")
    return f"[XTuner]{who}[{time:{_TIME_FORMAT}}][{level}] {one_line}"


def format_step(line: StepLine) -> str:
    """A step line, without its line end; the blank at its end is part of the format."""
    epoch = "" if line.epoch is None else f"Epoch {line.epoch} "
    pairs = "".join(f"{key}: {_format_value(key, value)} " for key, value in line.values.items())
    return format_log(f"{epoch}Step {line.step}/{line.total_steps} {pairs}", line.level, line.time, line.rank)


def parse(text: str, rank: int | None = None) -> StepLine | LogLine | None:
    """The line `text` as data, or None when it is not a line of a rank log; `rank` is used if the line has none."""
    match = LINE.match(text)
    if match is None:
        return None
    rank_text, time_text, level, step_part, epoch, step, total_steps = match.groups()
    try:
        time = _parse_time(time_text)
    except ValueError:
        return None
    rank_here = rank if rank_text is None else int(rank_text)
    if step_part is None:
        return LogLine(text[match.end() :].rstrip("\r\n"), time, rank_here, level)
    return StepLine(
        step=int(step),
        total_steps=int(total_steps),
        values=_parse_values(_head_of(text, match.end())),
        time=time,
        rank=rank_here,
        epoch=None if epoch is None else int(epoch),
        level=level,
    )


def rank_from_name(path: str | os.PathLike[str]) -> int | None:
    """The rank a log file is named after: `rank3.log` or `rank_3.log`."""
    match = _RANK_FILE.fullmatch(Path(path).name)
    return int(match[1]) if match else None


@lru_cache(maxsize=64)  # many lines of many ranks share their second
def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)  # a sixtieth of the time of strptime


def _format_value(key: str, value: float) -> str:
    return f"{value:.{_DECIMALS.get(key, _OTHER_DECIMALS)}f}{' GB' if key in _IN_GB else ''}"


def _head_of(text: str, start: int) -> str:
    """`text` from `start`, up to the limit, without a word that the limit cuts in two."""
    if len(text) - start <= _MAX_VALUES_CHARS:
        return text[start:]
    return text[start : start + _MAX_VALUES_CHARS].rpartition(" ")[0]


def _parse_values(text: str) -> dict[str, float]:
    """`key: value` pairs in their order; what is not a number is left out."""
    plain = text.replace(" GB ", " ")
    words = plain.replace(": ", " ").split()
    if len(words) == 2 * plain.count(": "):
        # Nothing but pairs, as we write them: three times as fast as looking at each word.
        try:
            return dict(zip(words[::2], map(float, words[1::2]), strict=True))
        except ValueError:
            pass
    return _parse_dialect(text)


def _parse_dialect(text: str) -> dict[str, float]:
    text = _ETA.sub(_eta_in_seconds, text)
    values: dict[str, float] = {}
    key = ""
    for word in text.replace(",", " ").split():
        if word.endswith(":"):
            key = word[:-1]
        elif key:
            try:
                values[key] = float(word)
            except ValueError:
                pass
            key = ""
    return values


def _eta_in_seconds(match: re.Match[str]) -> str:
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return f"eta: {((days * 24 + hours) * 60 + minutes) * 60 + seconds}"

"""The step line of the rank logs, written and parsed here and nowhere else.

    [XTuner][RANK 2][2025-08-29 09:17:51][INFO] Step 1/100 data_time: 0.0578 lr: 0.000020 time: 4.9770 ...

The parser also reads neighbouring dialects: no `[RANK n]`, `Epoch 1 Step 12/100`, commas between the pairs,
`eta: 1 day, 2:03:04`, `nan`, unknown keys.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

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

_HEAD = re.compile(r"\[XTuner\](?:\[RANK (\d{1,7})\])?\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\]\[(\w{1,16})\] ?")
_STEP = re.compile(r"(?:Epoch (\d{1,9}) )?Step (\d{1,12})/(\d{1,12}) ?")
_ETA = re.compile(r"\beta: (?:(\d{1,6}) days?, )?(\d{1,4}):(\d\d):(\d\d)")
_RANK_FILE = re.compile(r"rank_?(\d{1,7})\.log")
# Lines are cut here before the expressions above look at them; a step line is a few hundred characters.
_MAX_STEP_LINE = 16_384


@dataclass(frozen=True)
class StepLine:
    """One step of one rank: `values` in the order of the line; times in seconds, memory in GiB, `eta` in seconds."""

    step: int
    total_steps: int
    values: Mapping[str, float]
    time: datetime
    rank: int | None = None
    epoch: int | None = None
    level: str = "INFO"


@dataclass(frozen=True)
class LogLine:
    """Any other line of a rank log."""

    text: str
    time: datetime
    rank: int | None = None
    level: str = "INFO"


def format_log(text: str, level: str, time: datetime, rank: int | None) -> str:
    """One line of a rank log, without its line end."""
    who = "" if rank is None else f"[RANK {rank}]"
    return f"[XTuner]{who}[{time:{_TIME_FORMAT}}][{level}] {text}"


def format_step(line: StepLine) -> str:
    """A step line, without its line end; the blank at its end is part of the format."""
    epoch = "" if line.epoch is None else f"Epoch {line.epoch} "
    pairs = "".join(f"{key}: {_format_value(key, value)} " for key, value in line.values.items())
    return format_log(f"{epoch}Step {line.step}/{line.total_steps} {pairs}", line.level, line.time, line.rank)


def parse(text: str, rank: int | None = None) -> StepLine | LogLine | None:
    """The line `text` as data, or None when it is not a line of a rank log; `rank` is used if the line has none."""
    head = _HEAD.match(text)
    if head is None:
        return None
    rank_here = int(head[1]) if head[1] else rank
    try:
        time = datetime.strptime(head[2], _TIME_FORMAT)
    except ValueError:
        return None
    body = text[head.end() :].rstrip("\r\n")
    step = _STEP.match(body)
    if step is None:
        return LogLine(body, time, rank_here, head[3])
    return StepLine(
        step=int(step[2]),
        total_steps=int(step[3]),
        values=_parse_values(body[step.end() : _MAX_STEP_LINE]),
        time=time,
        rank=rank_here,
        epoch=int(step[1]) if step[1] else None,
        level=head[3],
    )


def rank_from_name(path: Path) -> int | None:
    """The rank a log file is named after: `rank3.log` or `rank_3.log`."""
    match = _RANK_FILE.fullmatch(path.name)
    return int(match[1]) if match else None


def _format_value(key: str, value: float) -> str:
    return f"{value:.{_DECIMALS.get(key, _OTHER_DECIMALS)}f}{' GB' if key in _IN_GB else ''}"


def _parse_values(text: str) -> dict[str, float]:
    """`key: value` pairs in their order; what is not a number is left out."""
    eta = _ETA.search(text)
    if eta:
        days, hours, minutes, seconds = (int(part or 0) for part in eta.groups())
        text = f"{text[: eta.start()]}eta: {((days * 24 + hours) * 60 + minutes) * 60 + seconds}{text[eta.end() :]}"
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

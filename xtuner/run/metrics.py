"""The metrics files: one JSON record a step and rank, with full precision."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends records to a file, each with one write call, so that a reader never sees two halves mixed.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        # A writer that was killed may have left half a record; the next must not be glued to it.
        self._is_torn = _ends_inside_a_line(self._descriptor)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`; NaN and infinities become strings, JSON has no numbers for them.

        Raises:
            OSError: the disk is full, for example; the record may be lost, later ones are not harmed.
        """
        line = json.dumps(without_infinities(record), ensure_ascii=False, allow_nan=False)
        data = ("\n" if self._is_torn else "").encode() + line.encode("utf-8", "backslashreplace") + b"\n"
        self._is_torn = True
        num_written = os.write(self._descriptor, data)
        while num_written < len(data):  # only when the disk fills up or a signal comes
            num_written += os.write(self._descriptor, data[num_written:])
        self._is_torn = False

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a metrics file; an unfinished last line and broken lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield from parse_records(line)


def parse_records(lines: bytes) -> list[dict[str, Any]]:
    """The records among whole `lines` of a metrics file; lines that are none are left out."""
    parts = [line for line in lines.split(b"\n") if line]
    try:
        # One document is read a fifth faster than many; a broken line among them spoils it.
        found = json.loads(b"[" + b",".join(parts) + b"]")
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(parts):
        found = [record for part in parts if (record := _parse_record(part)) is not None]
    records = [record for record in found if isinstance(record, dict)]
    if b'nan"' in lines or b'inf"' in lines:
        return [{key: _to_number(value) for key, value in record.items()} for record in records]
    return records


def _parse_record(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def without_infinities(value: Any) -> Any:
    """`value` as strict JSON can say it: NaN and infinities become "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {key: without_infinities(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(inner) for inner in value]
    return value


def _to_number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _ends_inside_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"

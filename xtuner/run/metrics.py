"""The metrics files: one JSON record a step and rank, with full precision."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends records to a file, each with one write call, so that a reader never sees two halves mixed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`; NaN and infinities become strings, JSON has no numbers for them."""
        line = json.dumps({key: _to_json(value) for key, value in record.items()}, ensure_ascii=False, allow_nan=False)
        os.write(self._descriptor, line.encode("utf-8") + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a metrics file; an unfinished last line and broken lines are left out."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield {key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
                       for key, value in record.items()}  # fmt: skip


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""Token sequences on disk, memory-mapped: every rank of a machine reads the same pages.

DIRECTORY/
  ids.i32        all sequences, one after the other
  trained.u8     1 for each trained token
  starts.i64     where each sequence begins, and the end of the last
  targets.i32    trained tokens of each sequence
  lines.i64      the line of the data file each sequence came from
  meta.json      written last: counts, problems, what it was made of
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from xtuner.data.counts import DataCounts
from xtuner.data.problems import ProblemLog
from xtuner.data.rows import ChunkResult
from xtuner.data.tokenize import TokenSequence

_FILES = {"ids.i32": np.int32, "trained.u8": np.bool_, "targets.i32": np.int32, "lines.i64": np.int64}
_STARTS = "starts.i64"
META = "meta.json"


@dataclass(frozen=True)
class TokenStore:
    """The sequences of one data file.

    Attributes:
        ids: int32 [tokens].
        is_trained: bool [tokens].
        starts: int64 [sequences + 1].
        num_targets: int32 [sequences], trained tokens of each.
        lines: int64 [sequences].
        counts, problems: what happened to the rows.
        notes: what was accepted and is worth saying, and the format of the rows.
        key: what it was made of, as a hash; equal keys mean equal sequences.
    """

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    starts: NDArray[np.int64]
    num_targets: NDArray[np.int32]
    lines: NDArray[np.int64]
    counts: DataCounts = field(default_factory=DataCounts)
    problems: ProblemLog = field(default_factory=ProblemLog)
    notes: dict[str, Any] = field(default_factory=dict)
    key: str = ""

    def __len__(self) -> int:
        return len(self.num_targets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def sequence(self, index: int) -> TokenSequence:
        """Sequence `index`, as views."""
        part = slice(self.starts[index], self.starts[index + 1])
        return TokenSequence(self.ids[part], self.is_trained[part])

    @classmethod
    def open(cls, directory: Path) -> "TokenStore":
        """Map a finished store.

        Raises:
            OSError, ValueError, KeyError: it is not whole.
        """
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        arrays = [_map(directory / name, dtype) for name, dtype in _FILES.items()]
        starts = _map(directory / _STARTS, np.int64)
        ids, is_trained, num_targets, lines = arrays
        if not len(ids) == len(is_trained) == starts[-1] or not len(starts) - 1 == len(num_targets) == len(lines):
            raise ValueError(f"{directory} holds arrays of different lengths")
        return cls(
            ids,
            is_trained,
            starts,
            num_targets,
            lines,
            DataCounts.from_json(meta["counts"]),
            ProblemLog.from_json(meta["problems"]),
            meta["notes"],
            meta["key"],
        )


def _map(path: Path, dtype: Any) -> NDArray[Any]:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


class StoreWriter:
    """Appends results to a store's files; nothing of it stays in memory but the lengths. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._lengths: list[NDArray[np.int32]] = []

    def __enter__(self) -> "StoreWriter":
        self._files: dict[str, BinaryIO] = {
            name: self._stack.enter_context((self._directory / name).open("xb")) for name in _FILES
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, result: ChunkResult) -> None:
        """Append the sequences of one chunk."""
        parts = (result.ids, result.is_trained, result.num_targets, result.lines)
        for file, part in zip(self._files.values(), parts, strict=True):
            file.write(np.ascontiguousarray(part).data)
        self._lengths.append(result.lengths)

    def finish(self, meta: dict[str, Any]) -> None:
        """Write what closes the store; `meta` names its counts, problems, notes and key."""
        starts = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._lengths]), dtype=np.int64)
        starts.tofile(self._directory / _STARTS)
        for file in self._files.values():
            file.flush()
        (self._directory / META).write_text(json.dumps(meta, indent=2), encoding="utf-8")


def store_in_memory(sequences: Iterator[TokenSequence]) -> TokenStore:
    """A store of sequences at hand, for callers that have no files."""
    items = list(sequences)
    return TokenStore(
        ids=np.concatenate([np.empty(0, np.int32), *(item.ids for item in items)]),
        is_trained=np.concatenate([np.empty(0, np.bool_), *(item.is_trained for item in items)]),
        starts=np.cumsum([0, *map(len, items)], dtype=np.int64),
        num_targets=np.array([item.num_targets for item in items], dtype=np.int32),
        lines=np.arange(len(items), dtype=np.int64),
    )

"""Watches in which order files are made durable and get their names: what a power cut would leave."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

_State = tuple[int, int]  # time of the last change in nanoseconds, bytes
# File systems tell times in ticks of up to 10 ms: a write that follows an fsync at once would not be seen otherwise.
_TICK_S = 0.012


class WriteOrder:
    """The faults that were seen below a directory; names inside a hidden directory are nobody's yet, and may change.

    Attributes:
        faults: a sentence each.
        num_renames: how many names were given that readers look for.
    """

    def __init__(self, root: Path) -> None:
        self.faults: list[str] = []
        self.num_renames = 0
        self._root = root
        self._durable: dict[tuple[int, int], _State] = {}
        self._waiting: list[Path] = []  # renamed, and their directory is not durable yet

    def synced(self, descriptor: int) -> None:
        """Take note that what `descriptor` leads to is durable as it is now."""
        status = os.fstat(descriptor)
        self._durable[status.st_dev, status.st_ino] = status.st_mtime_ns, status.st_size
        self._waiting = [path for path in self._waiting if not os.path.samestat(os.stat(path.parent), status)]
        time.sleep(_TICK_S)

    def before_rename(self, source: Path, target: Path) -> None:
        """Look whether all that gets its name is durable, and all names that were given before."""
        self.end(f"when {target.name} gets its name")
        tree = [source] if not source.is_dir() or source.is_symlink() else [source, *source.rglob("*")]
        for path in tree:
            status = path.lstat()
            known = self._durable.get((status.st_dev, status.st_ino))
            if not path.is_symlink() and known != (status.st_mtime_ns, status.st_size):
                why = "was changed after its fsync" if known else "had no fsync"
                self.faults.append(f"{path.relative_to(self._root)} {why} when {target.name} gets its name")

    def renamed(self, target: Path) -> None:
        """Take note that the name was given."""
        self.num_renames += 1
        self._waiting.append(target)

    def end(self, when: str = "at the end") -> None:
        """Look whether all names that were given are durable."""
        self.faults += [f"the directory of {path.name} had no fsync {when}" for path in self._waiting]
        self._waiting = []

    def is_seen(self, path: Path) -> bool:
        """Whether a name is one that readers look for."""
        return path.is_relative_to(self._root) and not any(
            part.startswith((".tmp-", ".trash-", ".old-")) for part in path.relative_to(self._root).parts
        )


@contextmanager
def watch_order(root: Path) -> Iterator[WriteOrder]:
    """Watch this process, by its calls of fsync(2) and rename(2) and of `rmtree`, while the block runs."""
    order = WriteOrder(root)
    fsync, rename, replace, rmtree = os.fsync, os.rename, os.replace, shutil.rmtree

    def watched_rmtree(directory: Any, *arguments: Any, **options: Any) -> None:
        order.end(f"when {Path(directory).name} goes")
        rmtree(directory, *arguments, **options)

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        order.synced(descriptor)

    def watched(change: Any) -> Any:
        def call(source: Any, target: Any, **options: Any) -> None:
            is_seen = order.is_seen(Path(target))
            if is_seen:
                order.before_rename(Path(source), Path(target))
            change(source, target, **options)
            if is_seen:
                order.renamed(Path(target))

        return call

    with (
        mock.patch.object(os, "fsync", watched_fsync),
        mock.patch.object(os, "rename", watched(rename)),
        mock.patch.object(os, "replace", watched(replace)),
        mock.patch.object(shutil, "rmtree", watched_rmtree),
    ):
        yield order
    order.end()

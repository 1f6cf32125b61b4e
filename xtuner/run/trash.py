"""Directories go in two steps: out of sight by one rename, then file by file; a death between leaves no half of one.

What is in the trash is never read; `empty_trash` removes what earlier processes have left there.
"""

import os
import secrets
import shutil
from pathlib import Path

from xtuner.run.faults import point

PREFIX = ".trash-"


def throw_away(directory: Path) -> None:
    """Rename `directory`, so that nobody takes it for what it was; the caller syncs its parent and empties the trash.

    Raises:
        OSError: the name could not be changed.
    """
    point("prune.pre")
    os.rename(directory, directory.with_name(f"{PREFIX}{directory.name}-{secrets.token_hex(4)}"))
    point("prune.post")


def empty_trash(parent: Path) -> None:
    """Delete what was thrown away in `parent`, as far as it can be; only the run's one writer may call it."""
    for trash in list_named(parent, PREFIX):
        for inner in trash.iterdir():
            shutil.rmtree(inner, ignore_errors=True)
            point("prune.half")
        shutil.rmtree(trash, ignore_errors=True)


def list_named(parent: Path, *prefixes: str) -> list[Path]:
    """The entries of `parent` whose names begin so; none when it cannot be read."""
    try:
        return [parent / name for name in sorted(os.listdir(parent)) if name.startswith(prefixes)]
    except OSError:
        return []

"""Whether a download fits on its disk, known before its first byte."""

import shutil
from pathlib import Path

from xtuner.byte_size import shown_size
from xtuner.errors import EnvironmentFault
from xtuner.hub.findings import shown_path


def disk_of(directory: Path) -> Path:
    """`directory`, or the nearest folder above it that exists already."""
    return next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.is_dir())


def check_disk(directory: Path, missing_bytes: int) -> None:
    """Refuse before the first byte what cannot fit.

    Raises:
        EnvironmentFault: the disk of `directory` has less than `missing_bytes` free.
    """
    existing = disk_of(directory)
    free_bytes = shutil.disk_usage(existing).free
    if missing_bytes > free_bytes:
        free = f"{shown_path(existing)} has {shown_size(free_bytes)} free"
        message = f"{shown_size(missing_bytes)} are to be downloaded, and {free}"
        raise EnvironmentFault(message, hint="free some space, or choose another disk with --local-dir")

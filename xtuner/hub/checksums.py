"""The checksums that a download from the Hub leaves behind, without asking the Hub.

`hf download --local-dir DIR` keeps `DIR/.cache/huggingface/download/NAME.metadata`: revision, ETag and time, a line
each. In a Hub cache, a snapshot's files are links to blobs that are named by their ETag. The ETag is the SHA-256 of a
file in large-file storage, and git's SHA-1 of any other.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.hub.findings import HubError
from xtuner.hub.regular_file import open_regular

if TYPE_CHECKING:
    from hashlib import _Hash

_ETAG = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_MAX_METADATA_BYTES = 4096


@dataclass(frozen=True)
class Checksum:
    """What a file hashed to when it was downloaded; `is_outdated` when it was written to since."""

    etag: str
    is_outdated: bool

    def start(self, num_bytes: int) -> "_Hash":
        """A hash to update with all `num_bytes` of the file; its `hexdigest()` is to be `etag`."""
        if len(self.etag) == 64:
            return hashlib.sha256()
        # git hashes a header too: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(b"blob %d\0" % num_bytes, usedforsecurity=False)


def known_checksum(path: Path) -> Checksum | None:
    """The checksum of a file of a model directory, or None where no download left one."""
    try:
        return _from_blob_name(path) or _from_metadata(path)
    except (OSError, ValueError, HubError):
        return None


def _from_blob_name(path: Path) -> Checksum | None:
    """By the first of possibly several links: a shared store names its files otherwise."""
    if not path.is_symlink():
        return None
    target = Path(os.readlink(path))
    is_blob = target.parent.name == "blobs" and _ETAG.fullmatch(target.name)
    return Checksum(target.name, is_outdated=False) if is_blob else None


def _from_metadata(path: Path) -> Checksum | None:
    metadata = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    if not os.path.isfile(metadata):
        return None
    with open_regular(metadata) as file:
        _, etag, saved_s, *_ = file.read(_MAX_METADATA_BYTES).decode("ascii").split("\n")
    if not _ETAG.fullmatch(etag.strip()):
        return None
    # The second is what huggingface_hub allows for coarse clocks.
    return Checksum(etag.strip(), is_outdated=os.stat(path).st_mtime - 1 > float(saved_s))

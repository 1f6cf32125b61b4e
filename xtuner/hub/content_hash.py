"""Whether a file on disk is what the Hub says it is."""

import os
from pathlib import Path

from xtuner.hub.checksums import Checksum
from xtuner.hub.download_plan import RemoteFile
from xtuner.hub.regular_file import open_regular

_BLOCK_BYTES = 4 * 2**20


def has_content_of(path: Path, file: RemoteFile) -> bool:
    """Whether the bytes of `path` are those of `file`: size, then sha256 or git's sha1.

    Raises:
        HubError: as `open_regular`.
    """
    with open_regular(path) as opened:
        if os.fstat(opened.fileno()).st_size != file.size:
            return False
        digest = Checksum(file.etag, is_outdated=False).start(file.size)
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == file.etag

"""Opening files of a directory nobody vouches for: only regular files, never a pipe that would block."""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from xtuner.hub.findings import HubError, shown, shown_path

MAX_JSON_BYTES = 10 * 2**20
AGAIN = "download this file again"
_SNIFFED_BYTES = 1024
_LFS_POINTER = re.compile(rb"version https://git-lfs[^\n]*\n(?:[^\n]*\n)*?size (\d{1,18})\b")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading.

    Raises:
        HubError: DANGLING_LINK, NOT_A_FILE or UNREADABLE (also when there is nothing at all).
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something special")
            raise HubError("NOT_A_FILE", f"{shown_path(path)} is {kind}, not a file", hint=AGAIN)
        # O_NONBLOCK: should a pipe take the file's place between the two calls, opening it does not wait.
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> HubError:
    """Why `path` cannot be read: a link that leads nowhere, or the system's own words with owner and mode."""
    if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
        return HubError(
            "DANGLING_LINK",
            f"{shown_path(path)} is a link to {shown(os.readlink(path), 200)}, which is not there",
            hint="the cache it points into was pruned or moved: download the model again",
        )
    try:
        status = os.stat(path)
        owner = f" (mode {stat.S_IMODE(status.st_mode):04o}, owner uid {status.st_uid}, you are uid {os.geteuid()})"
    except OSError:
        owner = ""
    return HubError(
        "UNREADABLE",
        f"{shown_path(path)} cannot be read: {error.strerror}{owner}",
        hint="give your user the right to read it (chmod, chown), or copy the model to a place of your own",
    )


def explain_impostor(path: Path, head: bytes, size: int) -> HubError | None:
    """What a file that is not what its name says is: a Git LFS pointer, or text such as a saved error page."""
    pointer = _LFS_POINTER.match(head)
    if pointer:
        return HubError(
            "LFS_POINTER",
            f"{shown_path(path)} is a Git LFS pointer of {size:,} bytes; "
            f"its content ({int(pointer[1]):,} bytes) was not fetched",
            hint="run `git lfs pull` in the directory",
        )
    start = head[:80].decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    is_text = bool(start) and all(character.isprintable() or character.isspace() for character in start)
    if not is_text:
        return None
    kind = "a web page" if start.startswith("<") else "text"
    return HubError("ERROR_PAGE", f"{shown_path(path)} is {kind}: {shown(start)!r}", hint=AGAIN)


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES, unique_keys: bool = True) -> dict[str, Any]:
    """The JSON object in `path`.

    `NaN` and `Infinity` are allowed, as real configs have them (`time_step_limit` of Mamba models).

    Raises:
        HubError: as `open_regular`, or JSON_TOO_LARGE, LFS_POINTER, ERROR_PAGE, NOT_JSON, DUPLICATE_KEY.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            message = f"{shown_path(path)} has {size:,} bytes, more than the {max_bytes:,} that are read"
            raise HubError("JSON_TOO_LARGE", message, hint=AGAIN)
        try:
            raw = file.read(max_bytes)
        except OSError as error:
            raise unreadable(path, error) from None
    return _parse_object(path, raw, unique_keys)


def _parse_object(path: Path, raw: bytes, unique_keys: bool) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique if unique_keys else None)
    except _DuplicateKeyError as error:
        message = f"{shown_path(path)} has the key {shown(error)!r} twice"
        raise HubError("DUPLICATE_KEY", message, hint="remove the wrong one, or download this file again") from None
    except (ValueError, RecursionError) as error:
        head = raw[:_SNIFFED_BYTES]
        is_json = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[", b'"')
        impostor = None if is_json else explain_impostor(path, head, len(raw))
        reason = "nested too deep" if isinstance(error, RecursionError) else shown(error, 120)
        raise impostor or HubError("NOT_JSON", f"{shown_path(path)} is not JSON: {reason}", hint=AGAIN) from None
    if not isinstance(value, dict):
        message = f"{shown_path(path)} holds a JSON {type(value).__name__}, not an object"
        raise HubError("NOT_JSON", message, hint=AGAIN)
    return value


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        raise _DuplicateKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return unique

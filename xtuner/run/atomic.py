"""Files that are either the old one or the new one, never half of either."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from xtuner.run.faults import point


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the directory.

    The mode is 0666 less the umask, as of any new file. Lone surrogates in `data`, which stand for the bytes of
    file names that are not UTF-8, are written as `\\udcXX`: in JSON that is the same character.

    Raises:
        OSError: the old file is still there, the temporary one is not.
    """
    payload = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        point(f"meta.{path.name}.pre")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    point(f"meta.{path.name}.post")
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON of `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, not UTF-8, or nested too deep to be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of `path`; empty where there is none that can be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

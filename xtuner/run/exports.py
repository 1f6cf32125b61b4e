"""Which exports of a run were verified: read back, after they were written, and found to be what was meant."""

import os
import time
from pathlib import Path
from typing import Any

from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir


def mark_verified(run_dir: RunDir, export: Path) -> None:
    """Note that `export`, which has its final name, was verified; exports that are gone are forgotten.

    Raises:
        OSError: the note could not be written; the export is listed as not verified.
    """
    notes = {name: note for name, note in _read(run_dir).items() if (run_dir.path / name).is_dir()}
    sizes = {path.name: path.stat().st_size for path in sorted(export.iterdir())}
    write_json(run_dir.exports_json, {**notes, export.name: {"verified_at": time.time(), "files": sizes}})


def is_verified(run_dir: RunDir, name: str) -> bool:
    """Whether the export was verified and its files still have the sizes they had then."""
    note = _read(run_dir).get(name)
    files = note.get("files") if isinstance(note, dict) else None
    if not isinstance(files, dict) or not files:
        return False
    try:
        return all(os.stat(run_dir.path / name / file).st_size == size for file, size in files.items())
    except (OSError, ValueError):
        return False


def _read(run_dir: RunDir) -> dict[str, Any]:
    try:
        notes = read_json(run_dir.exports_json)
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}

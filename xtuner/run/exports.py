"""Which exports of a run were verified: read back, after they were written, and found to be what was meant."""

import os
import time
from pathlib import Path

from xtuner.run.atomic import read_object, write_json
from xtuner.run.layout import RunDir


def mark_verified(run_dir: RunDir, export: Path) -> None:
    """Note that `export`, which has its final name, was verified; exports that are gone are forgotten.

    Raises:
        OSError: the note could not be written; the export is listed as not verified.
    """
    notes = {name: note for name, note in read_object(run_dir.exports_json).items() if (run_dir.path / name).is_dir()}
    sizes = {path.name: path.stat().st_size for path in sorted(export.iterdir())}
    write_json(run_dir.exports_json, {**notes, export.name: {"verified_at": time.time(), "files": sizes}})


def is_verified(run_dir: RunDir, name: str) -> bool:
    """Whether the export was verified and its files still have the sizes they had then."""
    note = read_object(run_dir.exports_json).get(name)
    files = note.get("files") if isinstance(note, dict) else None
    if not isinstance(files, dict) or not files:
        return False
    try:
        return all(os.stat(run_dir.path / name / file).st_size == size for file, size in files.items())
    except (OSError, ValueError):
        return False

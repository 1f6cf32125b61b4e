"""`.xtuner`: the index of a work dir, always rebuilt from the run directories and never the only truth."""

import os
import re
import time
from pathlib import Path
from typing import Any

from xtuner.run.atomic import read_json, read_object, write_json
from xtuner.run.checkpoints import Checkpoint, fault_of, list_checkpoints
from xtuner.run.exports import is_verified
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.status import read_status
from xtuner.run.supervision import judge_launch, read_supervision

SCHEMA = 1
_EXPORT_NAME = re.compile(r"hf-([0-9]+)")


def rebuild_index(work_dir: Path) -> dict[str, Any]:
    """Scan the runs of `work_dir`, write `.xtuner`, and return what was written.

    Raises:
        OSError: the index cannot be written; the old one is still there.
    """
    index = scan(work_dir)
    write_json(work_dir / ".xtuner", index)
    return index


def read_index(work_dir: Path) -> dict[str, Any]:
    """The index on disk, or a fresh scan when it is missing, broken or of another schema.

    Its states are those of the moment it was written; `scan` tells those of now.
    """
    try:
        index = read_json(work_dir / ".xtuner")
    except (OSError, ValueError):
        return scan(work_dir)
    is_ours = isinstance(index, dict) and index.get("schema") == SCHEMA and isinstance(index.get("runs"), list)
    return index if is_ours else scan(work_dir)


def scan(work_dir: Path) -> dict[str, Any]:
    """The index as the run directories say it now; writes nothing."""
    return {"schema": SCHEMA, "runs": [describe(run_dir) for run_dir in list_runs(work_dir)]}


def describe(run_dir: RunDir) -> dict[str, Any]:
    """One run as an index entry; files that are missing or broken leave their fields empty."""
    record = read_object(run_dir.run_json)
    launch = read_supervision(run_dir)  # first: a launch that has ended leaves its last status
    status = read_status(run_dir)
    exports = _list_exports(run_dir)
    return {
        "name": run_dir.name,
        "created": record.get("created"),
        "state": judge_launch(launch, status, time.time()),
        "step": status.step if status else 0,
        "total_steps": status.total_steps if status else 0,
        "model": record.get("model"),
        "dataset": record.get("dataset"),
        "exports": exports,
        "verified_exports": [name for name in exports if is_verified(run_dir, name)],
        "checkpoints": [_describe_checkpoint(checkpoint) for checkpoint in list_checkpoints(run_dir)],
    }


def _describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint by its sizes: reading every byte, as a resume does, takes too long for a list."""
    return {"name": checkpoint.path.name, "step": checkpoint.step, "fault": fault_of(checkpoint, reads_files=False)}


def _list_exports(run_dir: RunDir) -> list[str]:
    """Names of the exported directories, in the order of their steps."""
    try:
        names = os.listdir(run_dir.path)
    except OSError:
        return []
    steps = {name: int(match[1]) for name in names if (match := _EXPORT_NAME.fullmatch(name))}
    return sorted((name for name in steps if os.path.isdir(run_dir.path / name)), key=steps.__getitem__)

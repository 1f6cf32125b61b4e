"""`.xtuner`: the index of a work dir, always rebuilt from the run directories and never the only truth."""

import time
from pathlib import Path
from typing import Any

from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.status import judge, read_status

SCHEMA = 1


def rebuild_index(work_dir: Path) -> dict[str, Any]:
    """Scan the runs of `work_dir`, write `.xtuner`, and return what was written."""
    index = scan(work_dir)
    write_json(work_dir / ".xtuner", index)
    return index


def read_index(work_dir: Path) -> dict[str, Any]:
    """The index on disk, or a fresh scan when it is missing or broken."""
    try:
        index = read_json(work_dir / ".xtuner")
    except (OSError, ValueError):
        return scan(work_dir)
    is_ours = isinstance(index, dict) and index.get("schema") == SCHEMA and isinstance(index.get("runs"), list)
    return index if is_ours else scan(work_dir)


def scan(work_dir: Path) -> dict[str, Any]:
    """The index as the run directories say it now."""
    return {"schema": SCHEMA, "runs": [describe(run_dir) for run_dir in list_runs(work_dir)]}


def describe(run_dir: RunDir) -> dict[str, Any]:
    """One run as an index entry; files that are missing or broken leave their fields empty."""
    try:
        record = read_json(run_dir.run_json)
    except (OSError, ValueError):
        record = {}
    record = record if isinstance(record, dict) else {}
    status = read_status(run_dir)
    exports = [path for path in run_dir.path.glob("hf-*") if path.name.removeprefix("hf-").isdigit()]
    return {
        "name": run_dir.name,
        "created": record.get("created"),
        "state": judge(status, time.time()),
        "step": status.step if status else 0,
        "total_steps": status.total_steps if status else 0,
        "model": record.get("model"),
        "dataset": record.get("dataset"),
        "exports": sorted((path.name for path in exports), key=lambda name: int(name.removeprefix("hf-"))),
    }

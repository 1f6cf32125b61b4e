"""Which run this process trains: a new one, or one that goes on from a checkpoint; decided once, known to all ranks."""

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from xtuner.data.template import tokenizer_fingerprint
from xtuner.run.atomic import read_json, write_json
from xtuner.run.checkpoints import Checkpoint, checkpoint_at
from xtuner.run.index import rebuild_index
from xtuner.run.layout import RUN_DIR_VARIABLE, RunDir
from xtuner.run.leftovers import clear_run, clear_work_dir
from xtuner.run.record import describe_run, mask_command
from xtuner.run.resume import ResumePoint, find_resume_point
from xtuner.run.status import StatusBeat, start_status
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import Ranks, broadcast_string


@dataclass(frozen=True)
class RunStart:
    """A run as it begins here.

    Attributes:
        run_dir: of the run.
        checkpoint: where it goes on; None for a new run.
        remarks: what the first rank has to say about the choice.
    """

    run_dir: RunDir
    checkpoint: Checkpoint | None = None
    remarks: tuple[str, ...] = ()


def start_run(config: TrainerConfig, ranks: Ranks, data_fingerprint: str) -> RunStart:
    """Choose or make the run directory, write its records, and tell all ranks; collective.

    Raises:
        XTunerError: see `find_resume_point` and `RunDir.create`.
    """
    start = _choose(config) if ranks.is_first else None
    if start:
        _write_records(start, config, data_fingerprint)
    path = broadcast_string(str(start.run_dir.path.absolute()) if start else "")
    checkpoint = broadcast_string(str(start.checkpoint.path.absolute()) if start and start.checkpoint else "")
    remarks = start.remarks if start else ()
    return RunStart(RunDir(Path(path)), checkpoint_at(Path(checkpoint)) if checkpoint else None, remarks)


def _choose(config: TrainerConfig) -> RunStart:
    given = os.environ.get(RUN_DIR_VARIABLE)  # the launcher has chosen already, by the same rules
    point = find_resume_point(config.resume, config.work_dir)
    clear_work_dir(config.work_dir)
    if point is None:
        remarks = (
            f"--resume auto: {config.work_dir} holds no unfinished run with a whole checkpoint; a new run begins",
        )
        run_dir = RunDir(Path(given)) if given else RunDir.create(config.work_dir)
        return RunStart(run_dir, None, remarks if config.resume == "auto" else ())
    clear_run(point.run_dir)
    return RunStart(point.run_dir, point.checkpoint, _remarks(point))


def _remarks(point: ResumePoint) -> tuple[str, ...]:
    return tuple(f"skipped {skipped.checkpoint.path}: {skipped.reason}" for skipped in point.skipped)


def _write_records(start: RunStart, config: TrainerConfig, data_fingerprint: str) -> None:
    """`config.json` as it is now; `run.json` as the run began, with what it was resumed by."""
    resolved = config.model_dump(mode="json")
    command = ["torchrun", *sys.argv]
    write_json(start.run_dir.config_json, resolved)
    record = _read_record(start.run_dir)
    if start.checkpoint and record:
        resumed = {
            "at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "after_step": start.checkpoint.step,
            "command": mask_command(command),
        }
        record["resumed"] = [*record.get("resumed", []), resumed]
    else:
        record = describe_run(command, resolved, **_fingerprints(config, data_fingerprint))
    write_json(start.run_dir.run_json, record)


def _read_record(run_dir: RunDir) -> dict[str, Any]:
    try:
        record = read_json(run_dir.run_json)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _fingerprints(config: TrainerConfig, data_fingerprint: str) -> dict[str, str]:
    return {
        "data_fingerprint": data_fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(config.tokenizer_dir, config.chat_template),
    }


def start_beat(run_dir: RunDir, total_steps: int) -> StatusBeat:
    """The heartbeat of the run, whose first one makes it known to the work dir."""
    beat = StatusBeat(run_dir, start_status(total_steps))
    rebuild_index(run_dir.work_dir)
    return beat

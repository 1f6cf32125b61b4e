"""Which run this process trains: a new one, or one that goes on from a checkpoint; decided once, known to all ranks."""

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import torch

from xtuner.data.template import tokenizer_fingerprint
from xtuner.run.atomic import read_object, write_json
from xtuner.run.checkpoints import Checkpoint, checkpoint_at, newest_whole
from xtuner.run.index import rebuild_index
from xtuner.run.layout import MEMORY_ESTIMATE_VARIABLE, RUN_DIR_VARIABLE, RunDir
from xtuner.run.leftovers import clear_run, clear_work_dir
from xtuner.run.record import describe_run, mask_command
from xtuner.run.resume import ResumePoint, find_resume_point
from xtuner.run.status import StatusBeat, start_status
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import Ranks, broadcast_string, gather_strings
from xtuner.v1.engine.memory import memory_of_rank_gib


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
    launch = _what_launchers_say()
    start = _choose(config, launch) if ranks.is_first else None
    if start:
        _write_records(start, config, data_fingerprint, ranks)
    path = broadcast_string(str(start.run_dir.path.absolute()) if start else "")
    checkpoint = broadcast_string(str(start.checkpoint.path.absolute()) if start and start.checkpoint else "")
    remarks = start.remarks if start else ()
    return RunStart(RunDir(Path(path)), checkpoint_at(Path(checkpoint)) if checkpoint else None, remarks)


class _Launch(NamedTuple):
    """What the ranks were told when they were started.

    Attributes:
        run_dir: that the launcher has chosen, by the same rules; empty without `xtuner sft`.
        is_restart: whether torchrun has started ranks again (`--max-restarts`).
    """

    run_dir: str
    is_restart: bool


def _what_launchers_say() -> _Launch:
    """The same on every rank; collective.

    The first rank need not be on the machine whose launcher made the run directory: torchrun numbers the machines as
    they meet. And a machine that has come back counts its own attempts alone.
    """
    run_dirs = gather_strings(os.environ.get(RUN_DIR_VARIABLE, ""))
    attempts = gather_strings(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return _Launch(next(filter(None, run_dirs), ""), any(attempt != "0" for attempt in attempts))


def _choose(config: TrainerConfig, launch: _Launch) -> RunStart:
    if launch.run_dir and launch.is_restart:
        return _go_on_in(RunDir(Path(launch.run_dir)))
    point = find_resume_point(config.resume, config.work_dir)
    clear_work_dir(config.work_dir)
    if point is None:
        remarks = (
            f"--resume auto: {config.work_dir} holds no unfinished run with a whole checkpoint; a new run begins",
        )
        run_dir = RunDir(Path(launch.run_dir)) if launch.run_dir else RunDir.create(config.work_dir)
        return RunStart(run_dir, None, remarks if config.resume == "auto" else ())
    clear_run(point.run_dir)
    return RunStart(point.run_dir, point.checkpoint, _remarks(point))


def _go_on_in(run_dir: RunDir) -> RunStart:
    """The run that failed just now: whatever its status says, nobody else writes to it."""
    clear_run(run_dir)
    checkpoint, skipped = newest_whole(run_dir)
    if checkpoint is None:
        return RunStart(
            run_dir, None, ("the ranks were started again, and there is no checkpoint: from the beginning",)
        )
    return RunStart(run_dir, checkpoint, _remarks(ResumePoint(run_dir, checkpoint, tuple(skipped))))


def _remarks(point: ResumePoint) -> tuple[str, ...]:
    return tuple(f"skipped {skipped.checkpoint.path}: {skipped.reason}" for skipped in point.skipped)


def _write_records(start: RunStart, config: TrainerConfig, data_fingerprint: str, ranks: Ranks) -> None:
    """`config.json` as it is now; `run.json` as the run began, with what it was resumed by."""
    resolved = config.model_dump(mode="json")
    command = ["torchrun", *sys.argv]
    write_json(start.run_dir.config_json, resolved)
    record = read_object(start.run_dir.run_json)
    if start.checkpoint and record:
        resumed = {
            "at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "after_step": start.checkpoint.step,
            "command": mask_command(command),
        }
        record["resumed"] = [*record.get("resumed", []), resumed]
    else:
        record = describe_run(command, resolved, **_fingerprints(config, data_fingerprint))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if MEMORY_ESTIMATE_VARIABLE in os.environ:
        record["memory_estimate_gib"] = float(os.environ[MEMORY_ESTIMATE_VARIABLE])
    record["device_memory_gib"] = round(memory_of_rank_gib(device, ranks.local_world_size), 2)
    write_json(start.run_dir.run_json, record)


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

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
from xtuner.run.checkpoints import Checkpoint
from xtuner.run.claim import claim_run
from xtuner.run.index import rebuild_index
from xtuner.run.layout import MEMORY_ESTIMATE_VARIABLE, RUN_DIR_VARIABLE, RunDir
from xtuner.run.leftovers import clear_run, clear_work_dir
from xtuner.run.rank_place import RankPlace, take_place
from xtuner.run.record import describe_run, mask_command
from xtuner.run.resume import SEAL_VARIABLE, ResumePoint, find_resume_point, resume_point_in
from xtuner.run.status import StatusBeat, start_status
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import Ranks, from_first, gather_strings
from xtuner.v1.engine.memory import memory_of_rank_gib


@dataclass(frozen=True)
class RunStart:
    """A run as it begins here.

    Attributes:
        run_dir: of the run.
        checkpoint: where it goes on; None for a new run.
        remarks: what there is to say about the choice.
    """

    run_dir: RunDir
    checkpoint: Checkpoint | None = None
    remarks: tuple[str, ...] = ()


def start_run(config: TrainerConfig, ranks: Ranks, data_fingerprint: str) -> RunStart:
    """Choose or make the run directory, write its records, and tell all ranks; collective.

    Raises:
        XTunerError: see `find_resume_point`, `claim_run` and `RunDir.create`; on every rank.
    """
    launch = _what_launchers_say()

    def choose_and_record() -> RunStart:
        start = _choose(config, launch)
        _write_records(start, config, data_fingerprint, ranks)
        return start

    start = from_first(choose_and_record)
    take_place(RankPlace(ranks.rank, start.run_dir))
    return start


class _Launch(NamedTuple):
    """What the ranks were told when they were started.

    Attributes:
        run_dir: that the launcher has made, or chosen by the same rules and claimed; empty without `xtuner sft`.
        is_restart: whether torchrun has started ranks again (`--max-restarts`).
        checkpoint_seal: of the checkpoint that the launcher has verified.
    """

    run_dir: str
    is_restart: bool
    checkpoint_seal: str


def _what_launchers_say() -> _Launch:
    """The same on every rank; collective.

    The first rank need not be on the machine whose launcher made the run directory: torchrun numbers the machines as
    they meet. And a machine that has come back counts its own attempts alone.
    """
    run_dirs = gather_strings(os.environ.get(RUN_DIR_VARIABLE, ""))
    attempts = gather_strings(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    seals = gather_strings(os.environ.get(SEAL_VARIABLE, ""))
    is_restart = any(attempt != "0" for attempt in attempts)
    return _Launch(next(filter(None, run_dirs), ""), is_restart, next(filter(None, seals), ""))


def _choose(config: TrainerConfig, launch: _Launch) -> RunStart:
    clear_work_dir(config.work_dir)
    if launch.run_dir:
        run_dir = RunDir(Path(launch.run_dir))
        clear_run(run_dir)
        # A restart reads every byte: of what the attempt before has saved, or touched, nobody knows anything.
        how, seal = ("auto", "") if launch.is_restart else (config.resume, launch.checkpoint_seal)
        point = resume_point_in(run_dir, how, seal)
        return _go_on_at(point) if point else RunStart(run_dir, None, _why_anew(config, launch))
    point = find_resume_point(config.resume, config.work_dir)
    if point is None:
        return RunStart(RunDir.create(config.work_dir.absolute()), None, _why_anew(config, launch))
    claim_run(point.run_dir, point.num_claims)  # before anything of it is changed
    clear_run(point.run_dir)
    return _go_on_at(point)


def _go_on_at(point: ResumePoint) -> RunStart:
    checkpoint = Checkpoint(point.checkpoint.path.absolute(), point.checkpoint.step)
    return RunStart(RunDir(point.run_dir.path.absolute()), checkpoint, _remarks(point))


def _why_anew(config: TrainerConfig, launch: _Launch) -> tuple[str, ...]:
    if launch.is_restart:
        return ("the ranks were started again, and there is no checkpoint: from the beginning",)
    if config.resume == "auto":
        return (f"--resume auto: {config.work_dir} holds no unfinished run with a whole checkpoint; a new run begins",)
    return ()


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

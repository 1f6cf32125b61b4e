"""Every path of a work dir and its runs.

WORK_DIR/
  .xtuner                       index of the runs, rebuilt from them
  20251129-143012-3f9a/         one run
    run.json config.json status.json exports.json
    supervisor.json             runs of xtuner sft: which process looks after it, how it ended
    pulses/rank0.json           how far a rank has come, see run/pulse.py
    logs/rank0.log              one text log a rank; logs/attempt_0/: what torchrun captured
    logs/failures/0/error.json  why a rank failed, as torchrun gets told on its machine
    metrics/rank0.jsonl         the same records with full precision
    checkpoints/                what a resumed run begins from, see run/checkpoints.py
    claims/                     who has gone on with the run, see run/claim.py
    hf-100/, hf-latest -> hf-100
    adapter-100/, adapter-latest -> adapter-100    runs with LoRA
    hf-40/, hf-best -> hf-40      runs with evaluation data; adapter-best with LoRA
    best.json                     the evaluation hf-best had
    metrics/eval.jsonl, metrics/generations.jsonl    one record an evaluation, one a reply
"""

import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.run.atomic import sync_directory
from xtuner.run.trash import empty_trash, throw_away

_RUN_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_EXPORT_NAME = re.compile(r"(?:hf|adapter)-([0-9]+)")
_NUM_NAMES_TRIED = 100
# Set by the launcher for its ranks: it makes the run directory, to have a place for what torchrun captures.
RUN_DIR_VARIABLE = "XTUNER_RUN_DIR"
# Likewise: GiB that each rank is expected to log as `max_memory`; the ranks put it into run.json.
MEMORY_ESTIMATE_VARIABLE = "XTUNER_MEMORY_ESTIMATE_GIB"


@dataclass(frozen=True)
class RunDir:
    """One run of a work dir."""

    path: Path

    @classmethod
    def create(cls, work_dir: Path) -> "RunDir":
        """A new run directory in `work_dir`, made exclusively: two launches never share one.

        Raises:
            EnvironmentFault: the work dir cannot be made or written.
        """
        check_work_dir(work_dir)
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            run_dir = cls(_make_run_path(work_dir))
            run_dir.logs.mkdir()
            run_dir.metrics.mkdir()
        except (OSError, ValueError) as error:
            raise _unwritable(work_dir, error) from None
        return run_dir

    @property
    def name(self) -> str:
        """The directory's name: time of its start and four random digits."""
        return self.path.name

    @property
    def work_dir(self) -> Path:
        """The directory that holds this run."""
        return self.path.parent

    @property
    def run_json(self) -> Path:
        """What was run, where and with which versions."""
        return self.path / "run.json"

    @property
    def config_json(self) -> Path:
        """Every resolved option."""
        return self.path / "config.json"

    @property
    def status_json(self) -> Path:
        """State, step and heartbeat."""
        return self.path / "status.json"

    @property
    def exports_json(self) -> Path:
        """Which exports were verified after they were written."""
        return self.path / "exports.json"

    @property
    def supervisor_json(self) -> Path:
        """Which process looks after the run, and how it ended."""
        return self.path / "supervisor.json"

    @property
    def logs(self) -> Path:
        """The ranks' text logs."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """The ranks' metrics records."""
        return self.path / "metrics"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, one directory a step."""
        return self.path / "checkpoints"

    @property
    def claims(self) -> Path:
        """The launches that have gone on with the run, one file each."""
        return self.path / "claims"

    @property
    def save_now(self) -> Path:
        """Whoever makes this file asks a live run for a checkpoint; the run removes it."""
        return self.path / "save-now"

    def rank_log(self, rank: int) -> Path:
        """The text log of a rank."""
        return self.logs / f"rank{rank}.log"

    def rank_metrics(self, rank: int) -> Path:
        """The metrics records of a rank."""
        return self.metrics / f"rank{rank}.jsonl"

    @property
    def pulses(self) -> Path:
        """How far the ranks have come, one file each."""
        return self.path / "pulses"

    def pulse(self, rank: int) -> Path:
        """How far a rank has come."""
        return self.pulses / f"rank{rank}.json"

    @property
    def failures(self) -> Path:
        """Why ranks of the last attempt failed, on any machine."""
        return self.logs / "failures"

    def failure_note(self, rank: int) -> Path:
        """Why a rank failed."""
        return self.failures / str(rank) / "error.json"

    @property
    def eval_metrics(self) -> Path:
        """One record an evaluation."""
        return self.metrics / "eval.jsonl"

    @property
    def generations(self) -> Path:
        """What the model replied at the evaluations."""
        return self.metrics / "generations.jsonl"

    @property
    def best_json(self) -> Path:
        """The step and the evaluation of the best model so far."""
        return self.path / "best.json"

    def attempt_logs(self, attempt: int) -> Path:
        """What torchrun captured of the ranks' stdout and stderr in an attempt, counted from 0."""
        return self.logs / f"attempt_{attempt}"

    def export(self, step: int) -> Path:
        """The Hugging Face directory exported after `step`."""
        return self.path / f"hf-{step}"

    def adapter(self, step: int) -> Path:
        """The LoRA adapter exported after `step`."""
        return self.path / f"adapter-{step}"

    @property
    def latest_export(self) -> Path:
        """The link to the newest export."""
        return self.path / "hf-latest"

    @property
    def best_export(self) -> Path:
        """The link to the export with the lowest evaluation loss."""
        return self.path / "hf-best"

    @property
    def best_adapter(self) -> Path:
        """The link to the LoRA adapter with the lowest evaluation loss."""
        return self.path / "adapter-best"

    @property
    def latest_adapter(self) -> Path:
        """The link to the newest LoRA adapter."""
        return self.path / "adapter-latest"


def list_runs(work_dir: Path) -> list[RunDir]:
    """The runs of `work_dir`, oldest first; an unreadable or missing work dir has none.

    A run is a directory with a name that `RunDir.create` gives, and with a run.json or a logs directory.
    """
    try:
        children = sorted(work_dir.iterdir())
    except OSError:
        return []
    runs = [RunDir(path) for path in children if _RUN_NAME.fullmatch(path.name)]
    return [run for run in runs if os.path.isfile(run.run_json) or os.path.isdir(run.logs)]


def newest_run(work_dir: Path) -> RunDir | None:
    """The run of `work_dir` that was started last."""
    return next(reversed(list_runs(work_dir)), None)


def find_runs(path: Path) -> list[RunDir]:
    """The runs behind `path`: those it holds, else itself when it is a run directory of any name."""
    return list_runs(path) or ([RunDir(path)] if is_run_dir(path) else [])


def is_run_dir(path: Path) -> bool:
    """Whether `path` is a run directory: by its name, its records or its rank logs.

    A logs directory alone says nothing, schedulers put such a one into work dirs.
    """
    run = RunDir(path)
    if _RUN_NAME.fullmatch(path.name) or any(map(os.path.isfile, (run.run_json, run.status_json))):
        return os.path.isdir(path)
    try:
        return any(name.startswith("rank") and name.endswith(".log") for name in os.listdir(run.logs))
    except OSError:
        return False


def point_latest(run_dir: RunDir, step: int) -> None:
    """Let `hf-latest` lead to the export of `step`, atomically.

    Raises:
        OSError: the old link is still there.
    """
    point_link(run_dir.latest_export, run_dir.export(step))


def point_latest_adapter(run_dir: RunDir, step: int) -> None:
    """Let `adapter-latest` lead to the adapter of `step`, atomically.

    Raises:
        OSError: the old link is still there.
    """
    point_link(run_dir.latest_adapter, run_dir.adapter(step))


def point_best(run_dir: RunDir, step: int) -> None:
    """Let `hf-best` and `adapter-best` lead to what was exported after `step`, each atomically.

    Raises:
        OSError: the old link is still there.
    """
    links = {run_dir.best_export: run_dir.export(step), run_dir.best_adapter: run_dir.adapter(step)}
    for link, target in links.items():
        if target.is_dir():
            point_link(link, target)


def exported_steps(run_dir: RunDir) -> list[int]:
    """The steps after which models or adapters were exported, in their order."""
    names = (path.name for path in run_dir.path.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted({int(match[1]) for name in names if (match := _EXPORT_NAME.fullmatch(name))})


def remove_exports(run_dir: RunDir, step: int) -> None:
    """Remove what was exported after `step`, as far as no link leads there.

    Raises:
        OSError: a name could not be changed.
    """
    for directory in (run_dir.export(step), run_dir.adapter(step)):
        links = [path for path in run_dir.path.iterdir() if path.is_symlink()]
        if directory.is_dir() and not any(os.readlink(link) == directory.name for link in links):
            throw_away(directory)
    sync_directory(run_dir.path)
    empty_trash(run_dir.path)


def point_link(link: Path, target: Path) -> None:
    """Let `link` lead to `target`, its neighbour, atomically.

    Raises:
        OSError: the old link is still there.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(target.name)
    try:
        os.replace(temporary, link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(link.parent)


def check_work_dir(work_dir: Path) -> None:
    """Check that runs can be made in `work_dir`, by making and removing a directory there or above it.

    Asking for permissions is not enough: root has them all, and a read-only file system refuses anyone.

    Raises:
        EnvironmentFault: they cannot.
    """
    try:
        absolute = work_dir.absolute()
        existing = next(path for path in (absolute, *absolute.parents) if os.path.lexists(path))
        probe = existing / f".xtuner-probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError) as error:
        raise _unwritable(work_dir, error) from None


def require_work_dir(work_dir: Path) -> None:
    """Check that `work_dir` is a directory that can be read.

    Raises:
        UsageError: there is none of that name.
        EnvironmentFault: it cannot be read.
    """
    if not os.path.isdir(work_dir):
        what = "is not a directory" if os.path.lexists(work_dir) else "does not exist"
        raise UsageError(f"the work dir {work_dir} {what}", hint="pass the --work-dir of a run")
    try:
        os.listdir(work_dir)
    except OSError as error:
        raise EnvironmentFault(
            f"the work dir {work_dir} cannot be read: {error.strerror}", hint=f"check it with: ls -ld {work_dir}"
        ) from None


def _make_run_path(work_dir: Path) -> Path:
    for _ in range(_NUM_NAMES_TRIED):
        path = work_dir / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(0, f"no free name for a run after {_NUM_NAMES_TRIED} tries")


def _unwritable(work_dir: Path, error: Exception) -> EnvironmentFault:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return EnvironmentFault(
        f"the work dir {work_dir} cannot be written: {why}",
        hint="pass another --work-dir, or change the permissions of this one",
    )

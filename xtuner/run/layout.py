"""Every path of a work dir and its runs (DESIGN of the run directory: docs/run-directory.md)."""

import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from xtuner.errors import EnvironmentFault
from xtuner.run.atomic import sync_directory

_RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


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
            while True:
                name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
                run_dir = cls(work_dir / name)
                try:
                    run_dir.path.mkdir(parents=True)
                    break
                except FileExistsError:
                    continue
            run_dir.logs.mkdir()
            run_dir.metrics.mkdir()
        except OSError as error:
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
    def logs(self) -> Path:
        """The ranks' text logs."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """The ranks' metrics records."""
        return self.path / "metrics"

    def rank_log(self, rank: int) -> Path:
        """The text log of a rank."""
        return self.logs / f"rank{rank}.log"

    def rank_metrics(self, rank: int) -> Path:
        """The metrics records of a rank."""
        return self.metrics / f"rank{rank}.jsonl"

    def export(self, step: int) -> Path:
        """The Hugging Face directory exported after `step`."""
        return self.path / f"hf-{step}"

    @property
    def latest_export(self) -> Path:
        """The link to the newest export."""
        return self.path / "hf-latest"


def list_runs(work_dir: Path) -> list[RunDir]:
    """The runs of `work_dir`, oldest first; an unreadable or missing work dir has none."""
    try:
        children = sorted(work_dir.iterdir())
    except OSError:
        return []
    return [RunDir(path) for path in children if _RUN_NAME.fullmatch(path.name) and path.is_dir()]


def find_runs(path: Path) -> list[RunDir]:
    """The runs behind `path`: itself when it is a run directory, else those it holds."""
    return [RunDir(path)] if (path / "logs").is_dir() else list_runs(path)


def point_latest(run_dir: RunDir, step: int) -> None:
    """Let `hf-latest` lead to the export of `step`, atomically."""
    temporary = run_dir.path / f".hf-latest.{os.getpid()}.{secrets.token_hex(4)}"
    temporary.symlink_to(run_dir.export(step).name)
    os.replace(temporary, run_dir.latest_export)
    sync_directory(run_dir.path)


def check_work_dir(work_dir: Path) -> None:
    """Check that runs can be made in `work_dir`, by making and removing a directory there or above it.

    Asking for permissions is not enough: root has them all, and a read-only file system refuses anyone.

    Raises:
        EnvironmentFault: they cannot.
    """
    existing = next(path for path in (work_dir.absolute(), *work_dir.absolute().parents) if os.path.lexists(path))
    probe = existing / f".xtuner-probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _unwritable(work_dir, error) from None


def _unwritable(work_dir: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"the work dir {work_dir} cannot be written: {error.strerror}",
        hint="pass another --work-dir, or change the permissions of this one",
    )

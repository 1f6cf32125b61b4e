"""What a supervising process needs to know of a launch: a command and where its output goes, no training option."""

from dataclasses import dataclass, field
from pathlib import Path

from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir

JOB_FILE = "job.json"
NODES = "nodes"  # of a work dir: what the machines without rank 0 keep


@dataclass(frozen=True)
class Job:
    """A launch that is ready to start: checked, its data prepared, its run directory made.

    Attributes:
        command: torchrun with its arguments.
        log_dir: where torchrun keeps what the ranks print, and where it is kept what torchrun prints.
        run_dir: the run directory on the machine with rank 0; None on the others, whose ranks are told by rank 0.
        num_ranks: ranks on this machine.
        environment: variables for torchrun and its ranks, besides those of the supervising process.
        max_restarts: how often torchrun starts failed ranks again.
        num_machines: that train together.
        meeting: where they meet, `host:port`; empty for a machine alone.
        claim: the number under which this launch has claimed the run that it goes on with; 0 for a new run.
    """

    command: tuple[str, ...]
    log_dir: Path
    run_dir: RunDir | None
    num_ranks: int
    environment: dict[str, str] = field(default_factory=dict)
    max_restarts: int = 0
    num_machines: int = 1
    meeting: str = ""
    claim: int = 0

    @property
    def home(self) -> RunDir:
        """Where the files about this launch are: the run directory, else the directory of this machine's output."""
        return self.run_dir or RunDir(self.log_dir)

    @property
    def torchrun_log(self) -> Path:
        """What torchrun itself prints."""
        return self.log_dir / "torchrun.log"

    def read_torchrun_log(self) -> str:
        """The text of it."""
        return self.torchrun_log.read_text(encoding="utf-8", errors="backslashreplace")

    @property
    def supervisor_log(self) -> Path:
        """What the supervising process prints where it has no terminal."""
        return self.log_dir / "supervisor.log"


def write_job(job: Job) -> Path:
    """Write `job` for another process to read, and return the file.

    Raises:
        OSError: it cannot be written.
    """
    job.log_dir.mkdir(parents=True, exist_ok=True)
    path = job.log_dir / JOB_FILE
    values = {
        **vars(job),
        "log_dir": str(job.log_dir.absolute()),
        "run_dir": str(job.run_dir.path.absolute()) if job.run_dir else None,
    }
    write_json(path, values)
    return path


def read_job(path: Path) -> Job:
    """The job that `write_job` wrote.

    Raises:
        OSError, ValueError, KeyError: it did not.
    """
    values = read_json(path)
    return Job(
        **{
            **values,
            "command": tuple(values["command"]),
            "log_dir": Path(values["log_dir"]),
            "run_dir": RunDir(Path(values["run_dir"])) if values["run_dir"] else None,
        }
    )

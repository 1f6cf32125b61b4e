"""What runs of the training entry have trained, for tests that compare runs."""

from pathlib import Path
from typing import Any

from forked_ranks import ForkServer

from xtuner.run.checkpoints import sha256_of
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.metrics import read_metrics


def completed(server: ForkServer, arguments: list[object], **how: Any) -> str:
    """Run to the end, which must be a good one; what was said."""
    done = server.run(*arguments, **how)
    assert set(done.codes) == {0}, done.output
    return done.output


def weights_of(work_dir: Path) -> str:
    """The SHA-256 of what the newest run exported."""
    return sha256_of(trained_run(work_dir).latest_export / "model.safetensors")


def trained_run(work_dir: Path) -> RunDir:
    """The run that has made a model: of two that began in one second, names do not say which came first."""
    [run_dir] = [run_dir for run_dir in list_runs(work_dir) if run_dir.latest_export.exists()]
    return run_dir


def steps_of(run_dir: RunDir, rank: int = 0) -> dict[int, tuple[float, float, float]]:
    """Losses and gradient norm of each step, as the newest attempt to make it says; none of a run that only began."""
    path = run_dir.rank_metrics(rank)
    records = [record for record in read_metrics(path) if "total_loss" in record] if path.exists() else []
    return {
        record["step"]: (record["total_loss"], record["reduced_llm_loss"], record["grad_norm"]) for record in records
    }

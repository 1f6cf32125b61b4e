"""How long before its end a job must hear of it, to finish its step and save."""

import math

from xtuner.run.layout import RunDir, list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import TrainerConfig

DEFAULT_GRACE_S = 120
_SAVE_S = 60


def grace_s(config: TrainerConfig) -> int:
    """Twice the longest step of the newest run in the work dir, and a minute to save in, in whole minutes.

    Twice, as the signal may come when a step has just begun, and the next may be longer. Without a run to learn from,
    and for short steps, it is two minutes.
    """
    longest_s = next((step_s for run in reversed(list_runs(config.work_dir)) if (step_s := _longest_step_s(run))), 0.0)
    return max(DEFAULT_GRACE_S, 60 * math.ceil((2 * longest_s + _SAVE_S) / 60))


def _longest_step_s(run_dir: RunDir) -> float:
    """Seconds with the wait for the batch; 0 without a step."""
    try:
        records = [record for record in read_metrics(run_dir.rank_metrics(0)) if "total_loss" in record]
        times = [float(record["time"]) + float(record["data_time"]) for record in records]
    except (OSError, KeyError, TypeError, ValueError):
        return 0.0
    return max((step_s for step_s in times if math.isfinite(step_s)), default=0.0)

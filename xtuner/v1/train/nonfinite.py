"""Steps whose loss or gradient is not finite: the run stops there, or goes on without them, a number of times."""

from collections.abc import Callable, Iterable

from xtuner.errors import TrainingFailed
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import gather_strings
from xtuner.v1.engine.engine import StepOutcome
from xtuner.v1.train.rank_log import RankLog

# What a warning names before it says "and ... more": packs of short rows hold hundreds.
_MAX_ROWS, _MAX_PARTS = 8, 8


class NonfiniteSteps:
    """Judges the steps of one run on one rank; every rank must call `judge` for the same steps.

    Args:
        config: whether the run goes on, and how often.
        log: of this rank.
        rank: of this process.
        rows_of: where the rows of each micro-batch of a step stand, see `Batches.rows_of`.

    Attributes:
        num_skipped: steps of the run that were skipped; a resumed run goes on counting.
    """

    def __init__(
        self, config: TrainerConfig, log: RankLog, rank: int, rows_of: Callable[[int], list[list[str]]]
    ) -> None:
        self._max_skips = config.max_nonfinite_skips if config.on_nonfinite == "skip" else 0
        self._log = log
        self._rank = rank
        self._rows_of = rows_of
        self.num_skipped = 0

    def judge(self, step: int, outcome: StepOutcome) -> None:
        """Say it when `step` was not updated, and whose rows it had; collective, in that case alone.

        Raises:
            TrainingFailed: on every rank: the run is not to go on after such a step, or not after so many.
        """
        if outcome.is_updated:
            return
        own = self._own_part(step, outcome)
        found = f"the loss is {outcome.reduced_loss} and the gradient norm {outcome.grad_norm} ({_everyones(own)})"
        if self.num_skipped >= self._max_skips:
            raise self._end(found)
        self.num_skipped += 1
        if self._rank == 0 or outcome.bad_batches:
            self._log.warning(
                f"step {step} is skipped: {found}; weights and optimizer are as before; "
                f"skipped {self.num_skipped} of at most {self._max_skips}"
            )

    def _own_part(self, step: int, outcome: StepOutcome) -> str:
        """What this rank has to tell of the step; a rank whose losses are finite is asked in case all are."""
        rows = self._rows_of(step)
        if not outcome.bad_batches:
            return f"?rank {self._rank}: {_shortened((row for pack in rows for row in pack), _MAX_ROWS)}"
        numbers = " and ".join(str(index + 1) for index in outcome.bad_batches)
        bad_rows = (row for index in outcome.bad_batches for row in rows[index])
        packs = "packs" if len(outcome.bad_batches) > 1 else "pack"
        return f"!rank {self._rank}, {packs} {numbers} of {len(rows)}: {_shortened(bad_rows, _MAX_ROWS)}"

    def _end(self, found: str) -> TrainingFailed:
        times = f"{self.num_skipped} skipped before, as many as --max-nonfinite-skips allows; "
        return TrainingFailed(
            f"{found}; {times if self._max_skips else ''}the weights were not updated",
            hint="lower --lr, or look at these rows"
            + ("" if self._max_skips else "; --on-nonfinite skip leaves out such a step and goes on"),
        )


def _everyones(own_part: str) -> str:
    """The parts of the ranks with a bad loss; where none has one, the gradient is to blame, and anyone's rows may be.

    Collective.
    """
    parts = gather_strings(own_part)
    guilty = [part[1:] for part in parts if part.startswith("!")]
    if guilty:
        return _shortened(guilty, _MAX_PARTS, "; ")
    return f"all losses are finite; {_shortened((part[1:] for part in parts), _MAX_PARTS, '; ')}"


def _shortened(words: Iterable[str], limit: int, separator: str = ", ") -> str:
    everything = list(words)
    more = f" and {len(everything) - limit} more" if len(everything) > limit else ""
    return separator.join(everything[:limit]) + more

"""How good a model is on packs it is not trained on: a forward pass over each, and sums over all ranks."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from xtuner.run.faults import point
from xtuner.v1.datasets.eval_batches import EvalBatch
from xtuner.v1.engine.engine import TrainEngine, sums_of
from xtuner.v1.engine.mode import evaluating


@dataclass(frozen=True)
class EvalOutcome:
    """An evaluation over all ranks.

    Attributes:
        loss: mean negative log-likelihood per trained token, nats.
        token_accuracy: share of the trained tokens that the model finds most likely, 0 to 1.
        num_tokens: trained tokens that were evaluated.
    """

    loss: float
    token_accuracy: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity where that is no float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def values(self) -> dict[str, float]:
        """All of it, by the names that records have."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "token_accuracy": self.token_accuracy,
            "num_tokens": self.num_tokens,
        }


@torch.no_grad()
def evaluate(
    engine: TrainEngine, batches: Iterable[EvalBatch], wants_end: Callable[[], bool] = lambda: False
) -> EvalOutcome | None:
    """Evaluate the model of `engine` as it is; every rank must call it, with equally many batches.

    The loss is (sum over the trained tokens of all ranks) / (their number): packs and ranks with few tokens weigh
    little, and how the packs are shared among ranks changes nothing.

    Args:
        engine: whose model is evaluated.
        batches: of this rank.
        wants_end: asked after each batch: whether this rank wants to leave the evaluation.

    Returns:
        None on every rank if one wanted to leave.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)
    with evaluating(engine.model):
        for batch in batches:
            terms = engine.loss_terms(batch.micro_batch.to(engine.device))
            if batch.counts:
                sums += sums_of(terms, batch.micro_batch)
            point("eval.batch")
            if _any_rank(wants_end(), engine.device):
                return None
    cross_entropy, num_correct, num_targets_in_all = engine.sum_over_data(sums).tolist()
    return EvalOutcome(cross_entropy / num_targets_in_all, num_correct / num_targets_in_all, int(num_targets_in_all))


def _any_rank(wish: bool, device: torch.device) -> bool:
    """Whether any rank has the wish; beside what a forward pass gathers it costs nothing."""
    wishes = torch.tensor(float(wish), device=device)
    dist.all_reduce(wishes, op=dist.ReduceOp.MAX)
    return bool(wishes.item())

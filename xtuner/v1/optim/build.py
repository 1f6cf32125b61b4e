"""The optimizer that `--optimizer` names, over the parameters of a sharded model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from xtuner.errors import UsageError
from xtuner.v1.config import OptimizerName
from xtuner.v1.optim.adamw import adamw_of, build_adamw, decay_groups
from xtuner.v1.optim.muon import ShardedMuon


@dataclass(frozen=True)
class OptimizerPair:
    """Two optimizers over different parameters of a model, that step as one.

    Attributes:
        parts: the two, for whoever saves or loads their state.
    """

    parts: tuple[torch.optim.Optimizer, torch.optim.Optimizer]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Update the parameters of both."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for part in self.parts:
            part.zero_grad(set_to_none)


AnyOptimizer = torch.optim.Optimizer | OptimizerPair


def build_optimizer(
    name: OptimizerName,
    model: torch.nn.Module,
    *,
    hidden_matrices: Iterable[torch.nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_momentum: float,
) -> AnyOptimizer:
    """The optimizer `name` over the trained parameters of `model`.

    Args:
        name: one of the names of `--optimizer`.
        model: sharded already.
        hidden_matrices: what Muon trains; AdamW trains all other parameters.
        lr: learning rate of the first step; see `set_learning_rate`.
        betas: of AdamW.
        weight_decay: of matrices and embeddings; vectors (norms, biases) have none.
        muon_momentum: of Muon.

    Raises:
        UsageError: Muon on matrices that are split by more than rows.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw-8bit":
        from torchao.optim import AdamW8bit

        return AdamW8bit(decay_groups(trained, weight_decay), lr=lr, betas=betas)
    matrices = list(hidden_matrices)
    if name == "adamw" or not matrices:
        return build_adamw(model, lr=lr, betas=betas, weight_decay=weight_decay)
    try:
        muon = ShardedMuon(matrices, lr=lr, momentum=muon_momentum, weight_decay=weight_decay)
    except ValueError as error:
        raise UsageError(f"--optimizer muon does not work here: {error}", hint="use --optimizer adamw") from None
    chosen = set(map(id, matrices))
    others = [parameter for parameter in trained if id(parameter) not in chosen]
    if not others:
        return muon
    return OptimizerPair((muon, adamw_of(others, lr=lr, betas=betas, weight_decay=weight_decay)))


def torch_optimizers(optimizer: AnyOptimizer) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that hold the state of `optimizer`, as `torch.distributed.checkpoint` takes them."""
    return optimizer.parts if isinstance(optimizer, OptimizerPair) else (optimizer,)


def set_learning_rate(optimizer: AnyOptimizer, lr: float) -> None:
    """Let the next step of all parameters be at `lr`."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # torchao's compiled steps read it from memory
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr

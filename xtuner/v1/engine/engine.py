"""`TrainEngine`: forward, backward, clip and update of one optimizer step."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from xtuner.errors import TrainingFailed
from xtuner.v1.datasets.batches import MicroBatch, StepBatch
from xtuner.v1.loss.cross_entropy import cross_entropy_sum


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        local_loss: mean loss per trained token of this rank, nats.
        reduced_loss: the same over all ranks.
        grad_norm: global L2 norm of the gradient before clipping.
    """

    local_loss: float
    reduced_loss: float
    grad_norm: float


class TrainEngine:
    """A sharded model and its optimizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        *,
        mesh: DeviceMesh,
        max_grad_norm: float,
    ) -> None:
        self.model = model
        self.device = torch.device(mesh.device_type)
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._world_size = mesh.size()

    def train_step(self, batch: StepBatch, lr: float) -> StepOutcome:
        """One optimizer step at learning rate `lr`.

        The loss is (sum over all trained tokens of the step) / (their global number). FSDP averages gradients
        over the ranks, so each rank backpropagates its sum times world size / global number.

        Raises:
            TrainingFailed: loss or gradient is not finite; raised on every rank, before the weights change.
        """
        scale = self._world_size / batch.global_targets
        local_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro_batch in batch.micro_batches:
            loss_sum = self._loss_sum(micro_batch.to(self.device))
            (loss_sum * scale).backward()
            local_sum += loss_sum.detach()
        grad_norm = _as_float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm))
        local_loss, reduced_loss = self._mean_losses(local_sum, batch)
        if not (math.isfinite(grad_norm) and math.isfinite(reduced_loss)):
            raise TrainingFailed(
                f"the loss is {reduced_loss} and the gradient norm {grad_norm}; the weights were not updated",
                hint="lower --lr, or look at the rows of this step",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepOutcome(local_loss, reduced_loss, grad_norm)

    def _loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        """Sum of the losses of one pack; logits exist only for the positions that predict a target."""
        logits_1NV = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=batch.target_positions,
            document_lengths=batch.document_lengths,
            use_cache=False,
        ).logits
        return cross_entropy_sum(logits_1NV[0], batch.targets)

    def _mean_losses(self, local_sum: torch.Tensor, batch: StepBatch) -> tuple[float, float]:
        total_sum = local_sum.clone()
        dist.all_reduce(total_sum)
        return local_sum.item() / batch.num_targets, total_sum.item() / batch.global_targets


def _as_float(norm: torch.Tensor) -> float:
    """The clipped norm of sharded gradients is itself sharded; asking for its value is a collective."""
    return float((norm.full_tensor() if isinstance(norm, DTensor) else norm).item())

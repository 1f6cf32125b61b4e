"""`TrainEngine`: forward, backward, clip and update of one optimizer step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from xtuner.run.faults import is_poisoned
from xtuner.v1.datasets.batches import MicroBatch, StepBatch
from xtuner.v1.engine.gradients import clip_gradients
from xtuner.v1.engine.objective import teach_loss
from xtuner.v1.loss.cross_entropy import LossTerms
from xtuner.v1.model.attention import document_bounds
from xtuner.v1.optim.build import AnyOptimizer, set_learning_rate, torch_optimizers


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        local_loss: mean loss per trained token of this rank's packs, nats.
        reduced_loss: the same over all ranks.
        grad_norm: global L2 norm of the gradient before clipping.
        token_accuracy: share of all ranks' targets that the model finds most likely, 0 to 1.
        wishes: each of the wishes given to the step, whether any rank has it.
        is_updated: whether the weights were updated: not where loss or gradient is not finite; the same on every rank.
        bad_batches: where they were not, which of this rank's micro-batches have a loss that is not finite.
    """

    local_loss: float
    reduced_loss: float
    grad_norm: float
    token_accuracy: float
    wishes: tuple[bool, ...] = ()
    is_updated: bool = True
    bad_batches: tuple[int, ...] = ()


class TrainEngine:
    """A sharded model and its optimizer.

    Args:
        model: sharded and filled; its forward is taught to return the loss.
        optimizer: over the model's parameters.
        mesh: what the model is sharded over; with tensor parallel the ranks with the same cuts, else all.
        sequence_group: the ranks that share this rank's packs, see `MicroBatch.part`; None if it has them alone.
        max_grad_norm: gradients are scaled down to this global L2 norm.
        loss_chunk_size: rows whose logits exist at a time.
        z_loss: weight of log(Z)**2 in the objective; reported losses are without it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: AnyOptimizer,
        *,
        mesh: DeviceMesh,
        sequence_group: dist.ProcessGroup | None = None,
        max_grad_norm: float,
        loss_chunk_size: int = 1024,
        z_loss: float = 0.0,
    ) -> None:
        teach_loss(model, chunk_size=loss_chunk_size, z_loss=z_loss)
        self.model = model
        self.device = torch.device(mesh.device_type)
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._num_averaged = mesh.size()
        self._sequence_group = sequence_group

    @property
    def torch_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizers that hold the state."""
        return torch_optimizers(self._optimizer)

    def train_step(self, batch: StepBatch, lr: float, wishes: Callable[[], Sequence[bool]] = lambda: ()) -> StepOutcome:
        """One optimizer step at learning rate `lr`.

        The loss is (sum over all trained tokens of the step) / (their global number). FSDP averages gradients
        over the ranks of the mesh, so each rank backpropagates its sum times their number / global number.

        Where loss or gradient is not finite on any rank, no rank updates anything: weights and the optimizer's state
        are those of before, and the gradient is forgotten. All ranks judge the same two sums, which the step has
        anyway.

        Args:
            batch: of this rank.
            lr: of all parameters.
            wishes: asked when the gradient is there, equally many on every rank; they travel with the sums.
        """
        scale = self._num_averaged / batch.global_targets
        local_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        losses = []
        for micro_batch in batch.micro_batches:
            terms = self.loss_terms(micro_batch.to(self.device))
            if is_poisoned("loss"):
                terms = LossTerms(*(term * math.nan for term in terms))
            (terms.objective * scale).backward()
            local_sums += sums_of(terms, micro_batch)
            losses.append(terms.cross_entropy.detach())
        grad_norm = clip_gradients(self.model, self._max_grad_norm, self.device)
        wished = torch.tensor(wishes(), dtype=torch.float64, device=self.device)
        total_sums, num_wishing = self.sum_over_data(torch.cat([local_sums, wished])).split([3, len(wished)])
        if self._sequence_group is not None:  # a part of a pack may have no target: the loss is that of the packs
            dist.all_reduce(local_sums, group=self._sequence_group)
        local_loss = (local_sums[0] / local_sums[2]).item()
        reduced_loss, token_accuracy, _ = (total_sums / batch.global_targets).tolist()
        is_updated = math.isfinite(grad_norm) and math.isfinite(reduced_loss)
        if is_updated:
            set_learning_rate(self._optimizer, lr)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepOutcome(
            local_loss,
            reduced_loss,
            grad_norm,
            token_accuracy,
            wishes=tuple(num > 0 for num in num_wishing.tolist()),
            is_updated=is_updated,
            bad_batches=() if is_updated else _not_finite(losses),
        )

    def loss_terms(self, batch: MicroBatch) -> LossTerms:
        """The loss of one pack, as sums over its targets; every rank must call it, as FSDP gathers the weights."""
        terms = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            target_positions=batch.target_positions,
            targets=batch.targets,
            document_lengths=batch.document_lengths,
            # Here, once a pack: a kernel that is not given them makes them anew in each layer.
            cu_seqlens=document_bounds(batch.document_lengths).to(self.device, non_blocking=True),
            sequence_group=self._sequence_group,
            use_cache=False,
        )
        return LossTerms(*terms)

    def sum_over_data(self, sums: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; ranks that share the blocks (tensor parallel) have the same, which count once."""
        total = sums.clone()
        dist.all_reduce(total)
        return total / (dist.get_world_size() // self._num_averaged)


def _not_finite(losses: Sequence[torch.Tensor]) -> tuple[int, ...]:
    return tuple(index for index, loss in enumerate(losses) if not loss.isfinite())


def sums_of(terms: LossTerms, batch: MicroBatch) -> torch.Tensor:
    """Cross-entropy, right guesses and targets of a pack, float64 [3]."""
    num_targets = terms.cross_entropy.new_tensor(batch.num_targets)
    return torch.stack([terms.cross_entropy, terms.num_correct, num_targets]).double()

"""Cross-entropy of a vocabulary projection, chunk by chunk: the logits of a whole pack never exist.

Shapes: N targets, C rows of a chunk, h hidden size, V vocabulary size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.autograd.function import once_differentiable

# Hidden states of some rows [C, h] to their logits [C, V], in whatever way the model has.
Head = Callable[[torch.Tensor], torch.Tensor]


class LossTerms(NamedTuple):
    """Sums over targets, fp32 scalars whatever the dtype of the model.

    They are sums because means would be wrong twice over: ranks and micro-batches hold different numbers of targets,
    and the mean of their means weighs a token in a short reply more than one in a long reply.

    Attributes:
        objective: what is minimised: the cross-entropy, plus the z-loss if there is one.
        cross_entropy: negative log-likelihood in nats; carries no gradient.
        num_correct: targets that the model finds most likely; carries no gradient.
    """

    objective: torch.Tensor
    cross_entropy: torch.Tensor
    num_correct: torch.Tensor


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, chunk_size: int, z_loss: float = 0.0
) -> LossTerms:
    """The loss of a plain projection `hidden @ weight.T`.

    The gradients are worked out in the forward pass, while a chunk's logits exist (as in Liger-Kernel, Hsu et al.
    2024), so that no logits are kept or computed twice.

    Args:
        hidden: [N, h].
        weight: [V, h].
        targets: int64 [N].
        chunk_size: C; at most C x V logits exist at a time, in fp32.
        z_loss: weight of log(Z)**2 per target, Z the softmax denominator (PaLM, Chowdhery et al. 2022, section 5).
    """
    wants_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return LossTerms(*_LinearCrossEntropy.apply(hidden, weight, targets, chunk_size, z_loss, wants_grad))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        chunk_size: int,
        z_loss: float,
        wants_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sums = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if wants_grad else None
        # Added up in fp32: thousands of rows in bf16 would lose the small ones.
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_grad and weight.requires_grad else None
        for begin in range(0, len(hidden), chunk_size):
            rows = slice(begin, begin + chunk_size)
            grad_rows = hidden_grad[rows] if hidden_grad is not None else None
            sums += _chunk_terms(hidden[rows], weight, targets[rows], z_loss, grad_rows, weight_grad)
        ctx.hidden_grad = hidden_grad
        ctx.weight_grad = weight_grad.to(weight.dtype) if weight_grad is not None else None
        # Copies, because FSDP warns of views among a model's outputs.
        objective, cross_entropy, num_correct = (term.clone() for term in sums)
        ctx.mark_non_differentiable(cross_entropy, num_correct)
        return objective, cross_entropy, num_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, objective_grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.hidden_grad, ctx.weight_grad
        assert hidden_grad is not None, "forward ran without gradients, or backward ran twice"
        ctx.hidden_grad = ctx.weight_grad = None
        hidden_grad *= objective_grad.to(hidden_grad.dtype)
        if weight_grad is not None:
            weight_grad *= objective_grad.to(weight_grad.dtype)
        return hidden_grad, weight_grad, None, None, None, None


def _chunk_terms(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    z_loss: float,
    hidden_grad: torch.Tensor | None,
    weight_grad: torch.Tensor | None,
) -> torch.Tensor:
    """The three sums of `LossTerms` of a chunk; its gradients are left in `hidden_grad` and added to `weight_grad`.

    A function of its own, so that a chunk's logits are gone before the next one's are made.
    """
    logits = (hidden @ weight.t()).float()
    terms = _terms_and_gradient(logits, targets, z_loss)
    if hidden_grad is not None:
        gradient = logits.to(weight.dtype)
        torch.mm(gradient, weight, out=hidden_grad)
        if weight_grad is not None:
            _add_product(weight_grad, gradient, hidden)
    return terms


def _add_product(total: torch.Tensor, gradient: torch.Tensor, hidden: torch.Tensor) -> None:
    """`total += gradient.T @ hidden`."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden)
    else:
        total += gradient.t() @ hidden


def _terms_and_gradient(logits: torch.Tensor, targets: torch.Tensor, z_loss: float) -> torch.Tensor:
    """The three sums of `LossTerms` of a chunk, fp32 [3]; `logits` [C, V] becomes the objective's gradient."""
    highest, best = logits.max(dim=-1)
    target_logits = logits.gather(1, targets[:, None])[:, 0]
    logits.sub_(highest[:, None]).exp_()
    partition = logits.sum(dim=-1)
    log_partition = highest + partition.log()
    cross_entropy = (log_partition - target_logits).sum()
    objective = cross_entropy + z_loss * log_partition.square().sum()
    # d/dlogit of (log Z - logit of the target + z log(Z)**2) = p (1 + 2 z log Z) - [is the target]
    logits.mul_(((1 + 2 * z_loss * log_partition) / partition)[:, None])
    logits.scatter_add_(1, targets[:, None], torch.full_like(target_logits, -1.0)[:, None])
    return torch.stack([objective, cross_entropy, (best == targets).sum().float()])


def head_cross_entropy(
    head: Head, hidden: torch.Tensor, targets: torch.Tensor, *, chunk_size: int, z_loss: float = 0.0
) -> LossTerms:
    """The loss behind any head: one with a bias, scaled or capped logits (Gemma 2, Granite, Cohere).

    Each chunk's logits are computed again in the backward pass instead of being kept.

    Args:
        head: [C, h] to [C, V]; the parameters it uses get their gradients.
        hidden: [N, h].
        targets: int64 [N].
        chunk_size: C.
        z_loss: as in `linear_cross_entropy`.
    """

    def terms(rows: torch.Tensor, row_targets: torch.Tensor) -> torch.Tensor:
        logits = head(rows).float()
        log_partition = logits.logsumexp(dim=-1)
        cross_entropy = F.cross_entropy(logits, row_targets, reduction="sum")
        num_correct = (logits.argmax(dim=-1) == row_targets).sum()
        return torch.stack([cross_entropy, log_partition.square().sum(), num_correct.float()])

    sums = torch.zeros(3, dtype=torch.float32, device=hidden.device)
    for rows, row_targets in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True):
        sums = sums + torch.utils.checkpoint.checkpoint(terms, rows, row_targets, use_reentrant=False)
    cross_entropy, log_partition_squares, num_correct = sums.unbind()
    return LossTerms(cross_entropy + z_loss * log_partition_squares, cross_entropy.detach(), num_correct.detach())

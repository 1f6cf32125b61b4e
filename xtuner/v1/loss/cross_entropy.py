"""Cross-entropy as a sum: whoever knows the global number of targets divides."""

import torch
import torch.nn.functional as F


def cross_entropy_sum(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum over N targets of the negative log-likelihood in nats, fp32 whatever the dtype of the logits.

    A mean here would be wrong twice over: ranks and micro-batches hold different numbers of targets, and the mean
    of their means weighs a token in a short reply more than one in a long reply.
    """
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="sum")

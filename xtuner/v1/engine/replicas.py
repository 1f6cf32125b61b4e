"""The proof, on the model at hand, that ranks which share its blocks keep the rest of it alike."""

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.engine.mode import evaluating
from xtuner.v1.model.shard import local_part
from xtuner.v1.model.tensor_cut import cut_of

_NUM_TOKENS = 32
_TOLERANCE = 0.05  # of the gradient's norm; a sum that was forgotten leaves a difference as large as the gradient


def check_replicas(model: PreTrainedModel, group: dist.ProcessGroup, device: torch.device) -> None:
    """Run one backward pass of random tokens; parameters that are whole on each rank must get the same gradients.

    Catches a plan that leaves something out: a norm of queries that each rank sees for its own heads alone, a partial
    result that nobody sums. Call it when `teach_loss` was; the gradients are forgotten again.

    Raises:
        ModelError: on every rank of a group whose ranks see different gradients.
    """
    vocab_size = model.config.get_text_config().vocab_size
    tokens = torch.randint(vocab_size, (_NUM_TOKENS + 1,), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.arange(_NUM_TOKENS, device=device)
    with evaluating(model):
        terms = model(
            input_ids=tokens[None, :-1],
            position_ids=positions[None],
            targets=tokens[1:],
            target_positions=positions,
            document_lengths=[_NUM_TOKENS],
            use_cache=False,
        )
        (terms[0] / _NUM_TOKENS).backward()
    differing = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and cut_of(parameter) is None and _differs(local_part(parameter.grad), group)
    ]
    model.zero_grad(set_to_none=True)
    everywhere: list[list[str]] = [[] for _ in range(group.size())]
    dist.all_gather_object(everywhere, differing, group=group)
    if any(everywhere):
        raise ModelError(
            f"--tp-size {group.size()}: the plan of {type(model).__name__} gives the ranks different gradients of "
            + ", ".join(sorted({name for names in everywhere for name in names})[:5]),
            hint="use --tp-size 1; FSDP shards every model",
        )


def _differs(gradient: torch.Tensor, group: dist.ProcessGroup) -> bool:
    """Whether `gradient` is another than that of the group's first rank; collective."""
    first = gradient.clone()
    dist.broadcast(first, group=group, group_src=0)
    return bool((gradient - first).norm() > _TOLERANCE * first.norm())

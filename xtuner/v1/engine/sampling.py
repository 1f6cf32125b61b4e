"""Replies of the model in training: greedy, through the very forward that trains it, weights sharded as they are."""

from collections.abc import Collection

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.v1.engine.mode import evaluating
from xtuner.v1.model.attention import document_bounds

# The length of a pack changes with every token; kernels and allocator see few lengths instead of one for each.
_PAD_MULTIPLE = 64


@torch.no_grad()
def greedy_replies(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    device: torch.device,
) -> list[list[int]]:
    """The most likely continuation of each prompt, one token after the other; every rank must call it alike.

    FSDP gathers weights in each forward, so all ranks run all forwards, on the same prompts side by side in one pack.
    There is no cache of keys and values: each token runs the whole pack again, which suits a few short samples at
    an evaluation and nothing longer. Rank 0 decides each token: a tie that another device breaks differently would
    let ranks stop at different times and wait for each other for ever.

    Args:
        model: built with packed attention, sharded or not; its mode, training or not, is left as it was.
        prompts: token ids, none of them empty; the same on every rank.
        max_new_tokens: longest reply.
        stop_ids: tokens that end a reply; they are not part of it.
        device: where the model runs.

    Returns:
        The new tokens of each prompt, the same on every rank.
    """
    assert all(prompts), "a prompt has tokens"
    replies: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    with evaluating(model):
        for _ in range(max_new_tokens):
            if not unfinished:
                break
            tokens = _next_tokens(model, [prompts[i] + replies[i] for i in unfinished], device)
            going_on = [(i, token) for i, token in zip(unfinished, tokens, strict=True) if token not in stop_ids]
            for i, token in going_on:
                replies[i].append(token)
            unfinished = [i for i, _ in going_on]
    return replies


def _next_tokens(model: PreTrainedModel, texts: list[list[int]], device: torch.device) -> list[int]:
    """The most likely token behind each of `texts`, as rank 0 sees it."""
    num_padding = -sum(map(len, texts)) % _PAD_MULTIPLE
    documents = [*texts, [0] * num_padding] if num_padding else texts
    lengths = [len(document) for document in documents]
    last_positions = (document_bounds(lengths)[1:] - 1)[: len(texts)].long()
    logits = model(
        input_ids=torch.tensor([token for document in documents for token in document], device=device)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths]).to(device)[None],
        document_lengths=lengths,
        logits_to_keep=last_positions.to(device),
        use_cache=False,
    ).logits  # [1, texts, V]
    tokens = logits[0].argmax(dim=-1)
    if dist.is_initialized():
        dist.broadcast(tokens, src=0)
    return tokens.tolist()

"""Greedy replies of the sharded model are those of transformers' own generation."""

import itertools

import engine_parts
import pytest
import ranks
import torch
from transformers import AutoModelForCausalLM

from xtuner.v1.config import FSDPConfig
from xtuner.v1.engine.objective import teach_loss
from xtuner.v1.engine.sampling import greedy_replies

_NEW_TOKENS = 24
_CPU = torch.device("cpu")


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 512, (length,), generator=generator).tolist() for length in (5, 1, 17, 40)]


def _reference(model_dir, stop_ids=frozenset()):
    """Each prompt alone, by `generate`, without the stop token at its end."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = sorted(stop_ids) or None
    replies = []
    for prompt in _prompts():
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_NEW_TOKENS, pad_token_id=0
        )
        reply = out[0, len(prompt) :].tolist()
        replies.append(reply[:-1] if reply[-1] in stop_ids else reply)
    return replies


def _stop_ids(replies: list[list[int]]) -> set[int]:
    """Two tokens with which the replies end at as many different lengths as can be."""

    def num_lengths(stop_ids: set[int]) -> int:
        return len({len([*itertools.takewhile(lambda token: token not in stop_ids, reply)]) for reply in replies})

    tokens = sorted({token for reply in replies for token in reply})
    return max(({first, second} for first, second in itertools.combinations(tokens, 2)), key=num_lengths)


def _sample(mesh, model_dir, stop_ids):
    model = engine_parts.sharded_model(mesh, model_dir)
    teach_loss(model, chunk_size=64)  # as the engine does
    return greedy_replies(model, _prompts(), max_new_tokens=_NEW_TOKENS, stop_ids=stop_ids, device=_CPU)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma2", "gpt_oss", "qwen3_moe"])
def test_replies_are_those_of_generate(mesh, tiny_model, architecture):
    model_dir = tiny_model(architecture)
    free = _reference(model_dir)
    assert all(len(reply) == _NEW_TOKENS for reply in free) and len({tuple(reply) for reply in free}) == 4
    assert _sample(mesh, model_dir, set()) == free
    stopped = _reference(model_dir, _stop_ids(free))
    assert len({len(reply) for reply in stopped}) >= 3
    assert _sample(mesh, model_dir, _stop_ids(free)) == stopped


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma2"])
def test_two_ranks_say_the_same(tiny_model, tmp_path, architecture):
    model_dir = tiny_model(architecture)
    stop_ids = _stop_ids(_reference(model_dir))
    first, second = ranks.run_ranks(2, _sample, tmp_path, model_dir, stop_ids)
    assert first == second == _reference(model_dir, stop_ids)


def _sample_with_noise_on_rank_1(mesh, model_dir, stop_ids):
    model = engine_parts.sharded_model(mesh, model_dir)
    if mesh.get_rank() == 1:
        noise = 100 * torch.randn(512, generator=torch.Generator().manual_seed(1))
        model.get_output_embeddings().register_forward_hook(lambda _module, _args, logits: logits + noise)
    return greedy_replies(model, _prompts(), max_new_tokens=_NEW_TOKENS, stop_ids=stop_ids, device=_CPU)


def test_rank_0_decides(tiny_model, tmp_path):
    """What rank 1 would say itself ends at another time: without a decision the ranks would wait for each other."""
    model_dir = tiny_model("llama")
    stop_ids = _stop_ids(_reference(model_dir))
    first, second = ranks.run_ranks(2, _sample_with_noise_on_rank_1, tmp_path, model_dir, stop_ids)
    assert first == second == _reference(model_dir, stop_ids)


def test_mode_is_left_as_it_was_and_nothing_is_learned(mesh, tiny_model):
    model = engine_parts.sharded_model(mesh, tiny_model("qwen3"), FSDPConfig(recompute_ratio=1.0))
    assert model.training
    before = engine_parts.full_weights(model)
    assert greedy_replies(model, [], max_new_tokens=3, stop_ids=set(), device=_CPU) == []
    greedy_replies(model, _prompts(), max_new_tokens=3, stop_ids=set(), device=_CPU)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in engine_parts.full_weights(model).items())
    model.eval()
    greedy_replies(model, _prompts(), max_new_tokens=1, stop_ids=set(), device=_CPU)
    assert not model.training


def _seen_document_lengths(mesh, model_dir, **options):
    model = engine_parts.sharded_model(mesh, model_dir)
    seen = []

    def see(_module, _args, inputs):
        assert sum(inputs["document_lengths"]) == inputs["input_ids"].shape[1]
        seen.append(inputs["document_lengths"])

    model.register_forward_pre_hook(see, with_kwargs=True)
    greedy_replies(model, _prompts(), device=_CPU, **options)
    return seen


def test_each_token_is_one_run_of_a_padded_pack(mesh, tiny_model):
    seen = _seen_document_lengths(mesh, tiny_model("qwen3"), max_new_tokens=4, stop_ids=set())
    assert seen == [[5, 1, 17, 40, 1], [6, 2, 18, 41, 61], [7, 3, 19, 42, 57], [8, 4, 20, 43, 53]]


def test_a_finished_reply_leaves_the_pack(mesh, tiny_model):
    model_dir = tiny_model("qwen3")
    first_tokens = [reply[0] for reply in _reference(model_dir)]
    assert first_tokens.count(first_tokens[1]) == 1
    seen = _seen_document_lengths(mesh, model_dir, max_new_tokens=2, stop_ids={first_tokens[1]})
    assert seen == [[5, 1, 17, 40, 1], [6, 18, 41, 63]]
    assert len(_seen_document_lengths(mesh, model_dir, max_new_tokens=9, stop_ids=set(first_tokens))) == 1

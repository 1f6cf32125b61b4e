"""Rows that share a pack, and rows that are padded: neither neighbours nor padding change anything."""

import math

import engine_parts
import numpy as np
import pytest
import tiny_models
import torch

from xtuner.data.cache import TokenCache
from xtuner.data.options import SourceSpec
from xtuner.data.prepare import DataRequest, prepare_data
from xtuner.data.tokenize import TokenSequence
from xtuner.v1.datasets.batches import Batches


def _sequence(seed: int, length: int, num_trained: int) -> TokenSequence:
    ids = np.random.default_rng(seed).integers(3, 512, length).astype(np.int32)
    return TokenSequence(ids, np.arange(length) >= length - num_trained)


def _fetch(data, **options):
    return Batches(data, sequences_per_step=1, seed=0, **options).fetch(1)


def _gradient(mesh, model_dir, first: TokenSequence, **options):
    """The gradient of one step over a pack of `first`, of which nothing is trained, and a row that is trained."""
    data = engine_parts.prepared_of([first, _sequence(7, 33, 20)], [2])
    engine = engine_parts.engine(mesh, model_dir, sgd=True, max_grad_norm=math.inf)
    before = engine_parts.full_weights(engine.model)
    outcome = engine.train_step(_fetch(data, **options), lr=1.0)
    after = engine_parts.full_weights(engine.model)
    return {name: before[name] - after[name] for name in before}, outcome


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma2", "gpt_oss", "qwen3_moe"])
def test_changing_one_row_changes_no_gradient_of_another(mesh, tiny_model, architecture):
    model_dir = tiny_model(architecture)
    gradient, outcome = _gradient(mesh, model_dir, _sequence(1, 40, 0))
    other, other_outcome = _gradient(mesh, model_dir, _sequence(2, 40, 0))
    assert outcome.reduced_loss == pytest.approx(other_outcome.reduced_loss, rel=1e-6)
    for name in gradient:
        torch.testing.assert_close(gradient[name], other[name], rtol=1e-5, atol=1e-6)
    trained, _ = _gradient(mesh, model_dir, _sequence(2, 40, 5))  # the control: a row that is trained is felt
    assert any((gradient[name] - trained[name]).abs().max() > 1e-3 for name in gradient)


def test_padding_changes_neither_loss_nor_gradient_nor_the_count_of_tokens(mesh, tiny_model):
    model_dir = tiny_model("qwen3")
    gradient, outcome = _gradient(mesh, model_dir, _sequence(1, 40, 0))
    padded, padded_outcome = _gradient(mesh, model_dir, _sequence(1, 40, 0), pad_multiple=64)
    assert padded_outcome.reduced_loss == pytest.approx(outcome.reduced_loss, rel=1e-6)
    for name in gradient:
        torch.testing.assert_close(padded[name], gradient[name], rtol=1e-5, atol=1e-6)
    [batch] = _fetch(engine_parts.prepared_of([_sequence(1, 40, 9)], [1]), pad_multiple=64).micro_batches
    assert batch.input_ids.shape == (1, 64) and (batch.num_tokens, batch.num_padding, batch.num_targets) == (40, 24, 9)
    assert sum(batch.document_lengths) == 64 and int(batch.target_positions.max()) == 38


def test_a_pad_token_that_is_the_end_of_turn_is_trained_and_padding_is_not(tmp_path):
    """PAD equal to EOS: padding is known by its place, so the end of a reply stays a target."""
    tiny_models.write_tokenizer(tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"pad_token": "<|endoftext|>"', '"pad_token": "<|im_end|>"'))
    chats = tiny_models.make_chats(tmp_path / "chats.jsonl", num_rows=12)
    request = DataRequest([SourceSpec(str(chats))], tmp_path / "model", packing="none", num_workers=1)
    data = prepare_data(request, TokenCache(tmp_path / "cache"))
    end_of_turn = 2
    assert data.num_packs == 12 and data.counts.replies == data.counts.replies_ended
    for step in range(1, 13):
        batches = Batches(data, sequences_per_step=1, seed=0, pad_multiple=64)
        [batch] = batches.fetch(step).micro_batches
        in_rows = batch.input_ids[0, : batch.num_tokens]
        num_ends = int((batch.targets == end_of_turn).sum())
        assert 1 <= num_ends <= int((in_rows == end_of_turn).sum())
        assert int(batch.target_positions.max()) < batch.num_tokens - 1 + 1 and batch.input_ids.shape[1] % 64 == 0

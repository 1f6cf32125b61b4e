"""Parts of a pack, and which ranks may share one."""

import engine_parts
import pytest
import torch

from xtuner.errors import UsageError
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.distributed import Ranks
from xtuner.v1.engine.flops import ModelFlops
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.sequence_parallel import require_even_heads


def _batch(packs, pad_multiple=1, **place):
    batches = Batches(
        engine_parts.prepared(packs),
        rank=0,
        world_size=1,
        sequences_per_step=1,
        seed=0,
        pad_multiple=pad_multiple,
        **place,
    )
    return batches.fetch(1)


def _parts(packs, num_parts, pad_multiple=1):
    batches = [_batch(packs, pad_multiple, part=index, num_parts=num_parts) for index in range(num_parts)]
    return [batch.micro_batches[0] for batch in batches]


@pytest.mark.parametrize("num_parts", [2, 3, 4, 7])
@pytest.mark.parametrize("pad_multiple", [1, 16])
@pytest.mark.parametrize("pack", [[(13, 9), (8, 1)], [(24, 3)], [(2, 1)], [(5, 4)]])
def test_parts_add_up_to_the_pack(pack, pad_multiple, num_parts):
    [whole] = _batch([pack], pad_multiple).micro_batches
    parts = _parts([pack], num_parts, pad_multiple)
    length = parts[0].input_ids.shape[1]
    joined = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("input_ids", "position_ids")}
    num_tokens = whole.input_ids.shape[1]
    assert torch.equal(joined["input_ids"][:, :num_tokens], whole.input_ids)
    assert torch.equal(joined["position_ids"][:, :num_tokens], whole.position_ids)
    positions = torch.cat([part.target_positions + part.index * length for part in parts])
    assert torch.equal(positions, whole.target_positions)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    assert all(((part.target_positions >= 0) & (part.target_positions < length)).all() for part in parts)
    for part in parts:
        assert part.input_ids.shape == part.position_ids.shape == (1, length)
        assert sum(part.document_lengths) == num_parts * length and part.row_lengths == whole.row_lengths
        assert part.num_parts == num_parts
    # Positions begin anew in each document, those of the padding too: no more of them than the model has.
    expected = torch.cat([torch.arange(n) for n in parts[0].document_lengths])
    assert torch.equal(joined["position_ids"][0], expected)
    assert sum(part.num_tokens for part in parts) == whole.num_tokens == sum(n for n, _ in pack)


def test_each_rank_counts_its_share_of_the_work():
    flops = ModelFlops(per_token=6.0, per_target=30.0, attention=())
    pack = [(13, 9), (8, 1)]
    whole = flops.of_step(_batch([pack]))
    parts = [flops.of_step(_batch([pack], part=index, num_parts=3)) for index in range(3)]
    assert sum(parts) == pytest.approx(whole) and len(set(parts)) > 1


def test_neighbouring_ranks_share_packs():
    places = [Ranks(rank, 0, 6, sp_size=2) for rank in range(6)]
    assert [(ranks.data_rank, ranks.sequence_rank) for ranks in places] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert {ranks.num_data_ranks for ranks in places} == {3}


def test_ranks_and_batch_size_must_fit():
    config = TrainerConfig(load_from="model", dataset="d.jsonl", sp_size=2)
    assert config.sequences_per_step(8) == 4
    config.check_world_size(8)
    with pytest.raises(UsageError, match="--sp-size 2 does not divide the 3 ranks"):
        config.check_world_size(3)
    config = TrainerConfig(load_from="model", dataset="d.jsonl", sp_size=2, global_batch_size=2)
    with pytest.raises(UsageError, match="not a multiple of the 4 groups of 2 ranks") as caught:
        config.check_world_size(8)
    assert "--global-batch-size 4" in caught.value.hint
    config.check_world_size(4)


def test_heads_must_be_shared_evenly(tiny_model):
    model = build_meta_model(read_model_config(tiny_model("llama")))
    require_even_heads(model, 4)
    with pytest.raises(
        UsageError, match="--sp-size 3 does not divide the 4 attention heads of LlamaForCausalLM"
    ) as caught:
        require_even_heads(model, 3)
    assert caught.value.hint == "use one of 1, 2, 4"

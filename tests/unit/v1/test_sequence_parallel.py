"""Parts of a pack, and which ranks may share one."""

import engine_parts
import pytest
import torch

from xtuner.errors import UsageError
from xtuner.preflight import check_inputs
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import Batches, DataShare
from xtuner.v1.engine.distributed import Ranks
from xtuner.v1.engine.flops import ModelFlops


def _batch(packs, pad_multiple=1, **share):
    batches = Batches(
        engine_parts.prepared(packs),
        DataShare(**share),
        sequences_per_step=1,
        seed=0,
        pad_multiple=pad_multiple,
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
    assert [(ranks.data_share.index, ranks.data_share.part) for ranks in places] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert {ranks.data_share.num_shares for ranks in places} == {3}


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


def test_heads_must_be_shared_evenly():
    options = {"load_from": "model", "dataset": "d.jsonl"}
    TrainerConfig(**options, sp_size=4).check_num_heads(4)
    with pytest.raises(UsageError, match="--sp-size 3 does not divide the 4 attention heads") as caught:
        TrainerConfig(**options, sp_size=3).check_num_heads(4)
    assert caught.value.hint == "use one of 1, 2, 4"
    TrainerConfig(**options, sp_size=2, tp_size=2).check_num_heads(4)
    with pytest.raises(UsageError, match=r"the 2 attention heads \(of 4, by --tp-size 2\)") as caught:
        TrainerConfig(**options, sp_size=4, tp_size=2).check_num_heads(4)
    assert caught.value.hint == "use one of 1, 2"


def test_heads_are_checked_before_the_data(tiny_model, tmp_path):
    config = TrainerConfig(load_from=tiny_model("llama"), dataset="missing.jsonl", work_dir=tmp_path, sp_size=3)
    with pytest.raises(UsageError, match="does not divide the 4 attention heads"):
        check_inputs(config, 3)

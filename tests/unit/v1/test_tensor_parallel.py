"""How a parameter is cut, which models can be, and who shares what with whom."""

from types import SimpleNamespace

import pytest
import torch

from xtuner.errors import ModelError, UsageError
from xtuner.v1.config import FSDPConfig, LoraConfig, TrainerConfig
from xtuner.v1.engine.distributed import Ranks
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.lora import add_adapters
from xtuner.v1.model.tensor_cut import TensorCut
from xtuner.v1.model.tensor_parallel import cut_model, require_plan


def _group(rank, size):
    return SimpleNamespace(rank=lambda: rank, size=lambda: size)


def _model(tiny_model, architecture):
    return build_meta_model(read_model_config(tiny_model(architecture)))


# --- A cut ---


def test_packed_matrices_are_cut_one_by_one():
    gate_and_up = torch.arange(8).reshape(8, 1)  # gate 0 to 3, up 4 to 7
    assert TensorCut(_group(0, 2), dim=0, num_packed=2).of_whole(gate_and_up).flatten().tolist() == [0, 1, 4, 5]
    assert TensorCut(_group(1, 2), dim=0, num_packed=2).of_whole(gate_and_up).flatten().tolist() == [2, 3, 6, 7]
    assert TensorCut(_group(1, 2), dim=1).of_whole(torch.arange(4)[None]).tolist() == [[2, 3]]


@pytest.mark.parametrize("num_packed", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_of_a_cut_are_found_in_the_whole(num_packed, size):
    whole = torch.arange(12 * size * num_packed)
    for rank in range(size):
        cut = TensorCut(_group(rank, size), dim=0, num_packed=num_packed)
        expected = cut.of_whole(whole)
        assert cut.whole_shape(expected.shape) == whole.shape
        for rows in (slice(0, 5), slice(5, 10), slice(10, len(expected)), slice(0, len(expected)), slice(3, 3)):
            found = [whole[there] for there in cut.rows_in_whole(rows, len(expected))]
            assert (torch.cat(found) if found else whole[:0]).tolist() == expected[rows].tolist()


def test_a_rank_holds_its_part_of_the_blocks(tiny_model):
    model = _model(tiny_model, "qwen3_moe")
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    cuts = cut_model(model, _group(1, 2))
    after = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name for name in before if before[name] != after[name]} == set(cuts)
    of_block = {name.removeprefix("model.layers.0."): after[name] for name in cuts if ".0." in name}
    assert of_block == {
        "self_attn.q_proj.weight": (32, 64),
        "self_attn.k_proj.weight": (16, 64),
        "self_attn.v_proj.weight": (16, 64),
        "self_attn.o_proj.weight": (64, 32),
        "mlp.experts.gate_up_proj": (4, 32, 64),
        "mlp.experts.down_proj": (4, 64, 16),
    }


def test_adapters_are_cut_with_their_layers(tiny_model):
    model = _model(tiny_model, "llama")
    add_adapters(model, LoraConfig(rank=4), tiny_model("llama"))
    require_plan(model, 2)
    cuts = cut_model(model, _group(0, 2))
    adapters = {name.removeprefix("model.layers.0."): cut.dim for name, cut in cuts.items() if ".0." in name}
    assert adapters["self_attn.q_proj.lora_B.default.weight"] == 0
    assert adapters["self_attn.o_proj.lora_A.default.weight"] == 1
    assert "self_attn.q_proj.lora_A.default.weight" not in adapters
    assert "self_attn.o_proj.lora_B.default.weight" not in adapters
    assert not model.get_parameter("model.layers.0.self_attn.q_proj.base_layer.weight").requires_grad


# --- What cannot be cut ---


@pytest.mark.parametrize(
    ("architecture", "tp_size", "error", "words"),
    [
        ("gpt_oss", 2, ModelError, "no plan for its decoder blocks"),
        ("llama", 3, UsageError, "does not divide the 4 attention heads and 2 key-value heads"),
        ("llama", 4, UsageError, "does not divide the 4 attention heads and 2 key-value heads"),
        ("phi3", 5, UsageError, "does not divide the 128 of model.layers.0.self_attn.qkv_proj"),
    ],
)
def test_what_cannot_be_cut_is_refused(tiny_model, architecture, tp_size, error, words):
    model = _model(tiny_model, architecture)
    require_plan(model, 1)
    with pytest.raises(error, match=words) as caught:
        require_plan(model, tp_size)
    assert caught.value.hint


def test_a_plan_with_an_unknown_word_is_refused(tiny_model):
    model = _model(tiny_model, "llama")
    model.config.base_model_tp_plan = {**model.config.base_model_tp_plan, "layers.*.mixer": "sideways"}
    with pytest.raises(ModelError, match="a plan with sideways"):
        require_plan(model, 2)


def test_adapters_of_experts_are_refused(tiny_model):
    model = _model(tiny_model, "qwen3_moe")
    add_adapters(model, LoraConfig(rank=4), tiny_model("qwen3_moe"))
    with pytest.raises(UsageError, match="LoRA on stacked experts") as caught:
        require_plan(model, 2)
    assert "--lora.target-modules" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "muon"}, "--tp-size 2 and --optimizer muon"),
        ({"fsdp_config": FSDPConfig(torch_compile=True)}, "--tp-size 2 and --fsdp-config.torch-compile"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(UsageError, match=words):
        TrainerConfig(load_from="model", dataset="d.jsonl", tp_size=2, **options).check()


# --- Who shares what ---


def test_blocks_are_shared_by_neighbours_and_packs_by_their_groups():
    places = [Ranks(rank, 0, 8, sp_size=2, tp_size=2) for rank in range(8)]
    assert [(ranks.data_share.index, ranks.data_share.part) for ranks in places] == [
        *((0, 0), (0, 0), (0, 1), (0, 1)),
        *((1, 0), (1, 0), (1, 1), (1, 1)),
    ]
    assert {ranks.data_share.num_shares for ranks in places} == {2}


def test_ranks_and_copies_must_fit():
    options = {"load_from": "model", "dataset": "d.jsonl", "tp_size": 2, "sp_size": 2}
    config = TrainerConfig(**options)
    config.check_world_size(8)
    assert config.sequences_per_step(8) == 2
    with pytest.raises(UsageError, match="--tp-size 2 times --sp-size 2 does not divide the 6 ranks"):
        config.check_world_size(6)
    with pytest.raises(UsageError, match="not a multiple of the 2 groups of 4 ranks"):
        TrainerConfig(**options, global_batch_size=3).check_world_size(8)
    with pytest.raises(UsageError, match="hsdp-sharding-size 1 is not a multiple of --tp-size 2"):
        TrainerConfig(**options, fsdp_config=FSDPConfig(hsdp_sharding_size=1)).check_world_size(8)

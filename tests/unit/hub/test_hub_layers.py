"""Tensor names against architectures: what transformers itself builds and saves is never called incomplete."""

import json
import re

import pytest
import tiny_models
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from xtuner.hub.judge_layers import _LIKE_LLAMA, _UNIFORM, judge_layers
from xtuner.hub.model_dir import inspect_model
from xtuner.hub.weights import weight_map

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Layers that differ, state spaces, mixtures in memory: nothing is certain, so nothing may be said.
VARIED = [
    *("bamba", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "falcon_h1", "glm4_moe", "granitemoehybrid", "jamba"),
    *("lfm2", "mamba", "mamba2", "qwen2_moe", "qwen3_moe", "qwen3_next", "recurrent_gemma", "rwkv"),
]


def _names(model_type):
    sizes = SIZES if model_type in _UNIFORM else {"num_hidden_layers": 6}
    config = AutoConfig.for_model(model_type)
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if vars(config).get("layer_types"):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.device("meta"):
        names = list(AutoModelForCausalLM.from_config(config).state_dict())
    values = json.loads(config.to_json_string(use_diff=False))
    return values, [name for name in names if name != "lm_head.weight" or not config.tie_word_embeddings]


@pytest.mark.parametrize("model_type", sorted(_UNIFORM))
def test_known_decoders_are_whole_and_miss_what_is_taken(model_type):
    config, names = _names(model_type)
    assert judge_layers(config, names) == []
    in_layers = [name for name in names if re.search(r"(layers|h|blocks)\.1\.", name)]
    assert len(in_layers) >= 6
    for taken in in_layers:
        codes = [finding.code for finding in judge_layers(config, [name for name in names if name != taken])]
        assert codes == ["TENSORS_LACKING"], taken
    without = [name for name in names if name not in in_layers]
    assert [finding.code for finding in judge_layers(config, without)] == ["LAYER_MISSING"]


@pytest.mark.parametrize("model_type", VARIED)
def test_varied_decoders_are_never_called_incomplete(model_type):
    assert judge_layers(*_names(model_type)) == []


@pytest.mark.parametrize("architecture", sorted(tiny_models.ARCHITECTURES))
def test_saved_models_are_good(tiny_model, architecture):
    """On disk a mixture has a tensor an expert, and a tied head none."""
    directory = tiny_model(architecture)
    report = inspect_model(directory, is_deep=True)
    assert report.ok and [finding.code for finding in report.findings] == ["CHECKSUMS"]
    config = json.loads((directory / "config.json").read_text())
    if config["model_type"] in _LIKE_LLAMA:
        names = [name for name in weight_map(directory) if "embed_tokens" not in name]
        assert [finding.code for finding in judge_layers(config, names)] == ["TENSORS_LACKING"]

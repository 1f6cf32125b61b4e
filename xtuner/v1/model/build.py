"""A model without weights: built on the meta device from `config.json`, fp32, with packed attention."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.model.attention import PACKED_ATTENTION


def read_model_config(path: Path) -> PreTrainedConfig:
    """The `transformers` config of a model directory or of a `config.json`.

    Raises:
        ModelError: `transformers` cannot make sense of it.
    """
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} holds no model config that transformers can build: {error}",
            hint=f"xtuner check-model {path}",
        ) from None


def build_meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The decoder-only model of `config` with fp32 parameters on the meta device: no memory, no weights.

    Raises:
        ModelError: there is no such decoder-only model, or its attention cannot be kept inside documents.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION, trust_remote_code=False
            )
    except (ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"transformers cannot build a decoder-only model of type {config.model_type!r}: {error}",
            hint="train a model whose architecture ends in ForCausalLM",
        ) from None
    if not model._supports_attention_backend:
        raise ModelError(
            f"{type(model).__name__} does not use transformers' attention interface, "
            "so the rows of a pack could see each other",
            hint="train an architecture with the attention interface (Llama, Qwen, Mistral, Gemma, GPT-OSS ...)",
        )
    model.config.use_cache = False
    model.tie_weights()
    return model.train()


def decoder_blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The repeated layers of `model`, in order: what is sharded, gathered and recomputed as one.

    Raises:
        ModelError: no list of layers as long as the config says.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            return list(module)
    raise ModelError(
        f"{type(model).__name__} has no list of {num_layers} layers",
        hint="this architecture is not supported yet",
    )

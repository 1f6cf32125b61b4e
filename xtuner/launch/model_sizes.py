"""A model in sizes, from config.json and the headers of its weights: what memory and disk are estimated from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from xtuner.errors import ModelError
from xtuner.hub.judge_config import first_int, text_config
from xtuner.hub.regular_file import read_json_object
from xtuner.hub.safetensors_header import TensorInfo, read_header
from xtuner.hub.weights import weight_files
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import BlockShape

# `model.layers.3.mlp.up_proj.weight` of most architectures, `transformer.h.3...` of GPT-2's kind.
_IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Names of the same size in different families; those of `transformers`' attributes come first.
_NAMES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token"),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size",),
}
_NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of parameters and bytes.

    Attributes:
        block: the shape of a decoder block.
        num_layers: decoder blocks.
        vocab_size: rows of the embedding.
        num_outside: parameters outside the blocks: embedding, last norm, and a head that is not tied.
        num_in_matrices: parameters of matrices in the blocks, of all experts.
        num_in_vectors: the other parameters of the blocks.
        adapter_dims: inputs plus outputs of all matrices in the blocks: LoRA has `rank` parameters for each.
        frozen_bytes: of a parameter that LoRA leaves as it is: 2 where all weights are stored in 16 bits.
        stored_bytes: of all weights on disk.
    """

    block: BlockShape
    num_layers: int
    vocab_size: int
    num_outside: int
    num_in_matrices: int
    num_in_vectors: int
    adapter_dims: int
    frozen_bytes: int
    stored_bytes: int

    @property
    def num_in_blocks(self) -> int:
        """Parameters of all blocks."""
        return self.num_in_matrices + self.num_in_vectors

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return self.num_outside + self.num_in_blocks

    @property
    def num_in_head(self) -> int:
        """Parameters of the projection to the vocabulary, tied or not."""
        return self.vocab_size * self.block.hidden_size


def sizes_of(config: TrainerConfig) -> ModelSizes:
    """The sizes of the model that `config` trains: counted in the weights' headers, or worked out from `--model-cfg`.

    Raises:
        ModelError: there is no model, its files cannot be read, or config.json lacks a size.
    """
    if config.load_from is not None:
        return _stored_sizes(config.load_from)
    if config.model_cfg is None:
        raise ModelError("no model is given", hint="pass --load-from MODEL_DIR")
    path = config.model_cfg / "config.json" if config.model_cfg.is_dir() else config.model_cfg
    return _sizes_by_config(path)


def _stored_sizes(directory: Path) -> ModelSizes:
    path = directory / "config.json"
    config = read_json_object(path)
    sizes = _read_sizes(text_config(config), path)
    tensors = {name: info for file in weight_files(directory) for name, info in read_header(file).tensors.items()}
    floats = {name: info for name, info in tensors.items() if info.dtype in _FLOAT_BYTES}
    inside = {name: info for name, info in floats.items() if _IN_BLOCK.search(name)}
    matrices = {name: info for name, info in inside.items() if len(info.shape) >= 2}
    in_matrices = sum(map(_numel, matrices.values()))
    return ModelSizes(
        block=BlockShape.of_config(sizes),
        num_layers=sizes.num_hidden_layers,
        vocab_size=sizes.vocab_size,
        num_outside=sum(_numel(info) for info in _outside(config, floats, inside)),
        num_in_matrices=in_matrices,
        num_in_vectors=sum(map(_numel, inside.values())) - in_matrices,
        adapter_dims=sum(sum(info.shape[-2:]) * prod(info.shape[:-2]) for info in matrices.values()),
        frozen_bytes=2 if floats and {_FLOAT_BYTES[info.dtype] for info in floats.values()} == {2} else 4,
        stored_bytes=sum(info.end - info.begin for info in tensors.values()),
    )


def _outside(
    config: Mapping[str, Any], floats: Mapping[str, TensorInfo], inside: Mapping[str, TensorInfo]
) -> Iterator[TensorInfo]:
    """What lies outside the blocks; a head that is stored beside the embedding it is tied to is left out."""
    is_tied = config.get("tie_word_embeddings") is True
    return (
        info
        for name, info in floats.items()
        if name not in inside and not (is_tied and name.endswith("lm_head.weight"))
    )


def _numel(info: TensorInfo) -> int:
    return prod(info.shape)


def _sizes_by_config(path: Path) -> ModelSizes:
    """Sizes of a Llama-like model; fp32, as weights that begin as random numbers are."""
    config = read_json_object(path)
    text = text_config(config)
    sizes = _read_sizes(text, path)
    shape = BlockShape.of_config(sizes)
    hidden = shape.hidden_size
    num_experts = first_int(text, "num_experts", "num_local_experts", "n_routed_experts") or 1
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    matrices = [(hidden, query), (hidden, key_value), (hidden, key_value), (query, hidden)]
    matrices += [(hidden, shape.inner_size)] * 3 * num_experts
    layers, embedding = sizes.num_hidden_layers, sizes.vocab_size * hidden
    is_tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings")) is True
    num_in_matrices = layers * sum(rows * columns for rows, columns in matrices)
    num_in_vectors = layers * 2 * hidden
    num_outside = embedding * (1 if is_tied else 2) + hidden
    return ModelSizes(
        block=shape,
        num_layers=layers,
        vocab_size=sizes.vocab_size,
        num_outside=num_outside,
        num_in_matrices=num_in_matrices,
        num_in_vectors=num_in_vectors,
        adapter_dims=layers * sum(map(sum, matrices)),
        frozen_bytes=4,
        stored_bytes=4 * (num_outside + num_in_matrices + num_in_vectors),
    )


def _read_sizes(text: dict[str, Any], path: Path) -> SimpleNamespace:
    """The sizes of a text config under the names of `transformers`' attributes.

    Raises:
        ModelError: a size that every decoder has is not there.
    """
    sizes = {name: first_int(text, *names) for name, names in _NAMES.items()}
    missing = [name for name in _NEEDED if not sizes[name]]
    if missing:
        raise ModelError(
            f"{path} does not say {', '.join(missing)}, so memory cannot be estimated",
            hint="check that it is the config.json of a decoder model; training itself asks transformers for the sizes",
        )
    return SimpleNamespace(**sizes, model_type=text.get("model_type"))

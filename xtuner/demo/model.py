"""The demo's model: Qwen3 of about a million parameters with random weights, written without torch.

Names and shapes are those of transformers' `Qwen3ForCausalLM`.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from xtuner.demo.tokenizer import EOS_ID, PAD_ID, VOCAB_SIZE

HIDDEN_SIZE = 128
NUM_LAYERS = 4
NUM_HEADS = 4
NUM_KV_HEADS = 2
HEAD_DIM = 32
INTERMEDIATE_SIZE = 384
MAX_LENGTH = 4096
# The logits of so small a model are near zero, so the first loss is near ln(VOCAB_SIZE).
WEIGHT_STD = 0.02
SEED = 20240229

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": INTERMEDIATE_SIZE,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": WEIGHT_STD,
    "max_position_embeddings": MAX_LENGTH,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "use_cache": True,
    "dtype": "float32",
    "bos_token_id": None,
    "eos_token_id": EOS_ID,
    "pad_token_id": PAD_ID,
}
GENERATION_CONFIG = {"do_sample": False, "eos_token_id": [EOS_ID, PAD_ID], "pad_token_id": PAD_ID}


def write_model(directory: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors into the existing `directory`."""
    for name, content in (("config.json", CONFIG), ("generation_config.json", GENERATION_CONFIG)):
        (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    # Not `save_file`, which gives the file the mode 0600 whatever the umask says (safetensors#782).
    (directory / "model.safetensors").write_bytes(save(_random_weights(), metadata={"format": "pt"}))


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Every stored tensor; the output head is not among them, it is tied to the embedding."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN_SIZE)}
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (HIDDEN_SIZE,),
        "self_attn.q_proj": (NUM_HEADS * HEAD_DIM, HIDDEN_SIZE),
        "self_attn.k_proj": (NUM_KV_HEADS * HEAD_DIM, HIDDEN_SIZE),
        "self_attn.v_proj": (NUM_KV_HEADS * HEAD_DIM, HIDDEN_SIZE),
        "self_attn.o_proj": (HIDDEN_SIZE, NUM_HEADS * HEAD_DIM),
        "self_attn.q_norm": (HEAD_DIM,),
        "self_attn.k_norm": (HEAD_DIM,),
        "post_attention_layernorm": (HIDDEN_SIZE,),
        "mlp.gate_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.up_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.down_proj": (HIDDEN_SIZE, INTERMEDIATE_SIZE),
    }
    for index in range(NUM_LAYERS):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (HIDDEN_SIZE,)}


def _random_weights() -> dict[str, np.ndarray]:
    # The legacy generator: its stream is frozen, that of `default_rng` may change between releases (NEP 19).
    generator = np.random.RandomState(SEED)
    return {
        name: (generator.standard_normal(shape) * WEIGHT_STD).astype(np.float32)
        if len(shape) == 2
        else np.ones(shape, np.float32)
        for name, shape in parameter_shapes().items()
    }

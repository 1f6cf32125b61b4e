"""What options cost in memory: formulas for the launcher, before a run, and for the engine, when memory ran out.

They know sizes of a model and options, and no tensor.
"""

from dataclasses import dataclass
from typing import Any

from xtuner.v1.config.parts import FSDPConfig, OptimizerName

GIB = 2**30
MASTER_BYTES = 4  # parameters that are trained and their gradients are fp32
LOGITS_COPIES = 3  # of a chunk, in fp32: logits, their softmax, the gradient

# Bytes of state a trained parameter: of the hidden matrices, of the others. AdamW has two moments in fp32, with 8 bits
# each it has a byte a moment and one fp32 scale for every 256 of them, Muon has one moment in fp32.
STATE_BYTES: dict[OptimizerName, tuple[float, float]] = {
    "adamw": (8, 8),
    "adamw-8bit": (2 + 8 / 256, 2 + 8 / 256),
    "muon": (4, 8),
}


@dataclass(frozen=True)
class BlockShape:
    """The sizes of a decoder block; `inner_size` is that of the MLP, of one expert where there are experts."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner_size: int
    experts_per_token: int = 1

    @classmethod
    def of_config(cls, config: Any) -> "BlockShape":
        """By the attributes of a text config, in the names of `transformers`."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        return cls(
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            inner_size=(
                getattr(config, "moe_intermediate_size", None)
                or getattr(config, "intermediate_size", None)
                or 4 * hidden
            ),
            experts_per_token=getattr(config, "num_experts_per_tok", None) or 1,
        )

    def numbers_a_token(self, tp_size: int) -> float:
        """Numbers that a block keeps a token, besides its input: norms, residuals, attention, the gated MLP.

        With tensor parallel a rank has its part of the last two.
        """
        attention = 2 * self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        mlp = 4 * self.inner_size * self.experts_per_token
        return 6 * self.hidden_size + (attention + mlp) / tp_size


def recompute_ratio(config: FSDPConfig, device_type: str) -> float:
    """The share of blocks to recompute that `config` asks for on a kind of device."""
    if config.recompute_ratio is not None:
        return config.recompute_ratio
    return 0.0 if device_type == "cpu" else 1.0


def compute_bytes(config: FSDPConfig, device_type: str) -> int:
    """Bytes of a number in forward and backward pass that `config` asks for on a kind of device."""
    if config.compute_dtype == "auto":
        return 4 if device_type == "cpu" else 2
    return 4 if config.compute_dtype == "float32" else 2


def logits_bytes(num_tokens: int, chunk_size: int, vocab_size: int) -> int:
    """One chunk of the loss of a pack of `num_tokens` tokens."""
    return min(num_tokens, chunk_size) * vocab_size * 4 * LOGITS_COPIES

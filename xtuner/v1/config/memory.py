"""What options cost in memory: formulas for the launcher, before a run, and for the engine, when memory ran out.

They know sizes of a model and options, and no tensor.
"""

from dataclasses import dataclass
from typing import Any

from xtuner.v1.config.parts import FSDPConfig, OptimizerName

GIB = 2**30
MASTER_BYTES = 4  # parameters that are trained and their gradients are fp32, and so is the inside of a norm

# Bytes of state a trained parameter: of the hidden matrices, of the others. AdamW has two moments in fp32, with 8 bits
# each it has a byte a moment and one fp32 scale for every 256 of them, Muon has one moment in fp32.
STATE_BYTES: dict[OptimizerName, tuple[float, float]] = {
    "adamw": (8, 8),
    "adamw-8bit": (2 + 8 / 256, 2 + 8 / 256),
    "muon": (4, 8),
}

# Families whose attention has a norm on the heads of queries and keys, by the head of their `model_type`.
_HEAD_NORMED = ("qwen3", "gemma3", "olmo2", "olmo3", "exaone4", "glm4_moe", "hunyuan_v1", "minimax_m2", "apertus")
# Families whose norms multiply by one more than their weight.
_OTHER_NORMS = ("gemma", "recurrent_gemma", "vaultgemma", "qwen3_next", "qwen3_5", "qwen4")


@dataclass(frozen=True)
class BlockShape:
    """The sizes of a decoder block.

    Attributes:
        inner_size: of the MLP, of one expert where there are experts.
        has_head_norms: whether queries and keys pass a norm before they are rotated.
        has_plain_norms: whether its norms run as one kernel on a GPU, see `xtuner.v1.model.fused_norm`.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner_size: int
    experts_per_token: int = 1
    has_head_norms: bool = False
    has_plain_norms: bool = True

    @classmethod
    def of_config(cls, config: Any) -> "BlockShape":
        """By the attributes of a text config, in the names of `transformers`."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        family = str(getattr(config, "model_type", ""))
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
            has_head_norms=family.startswith(_HEAD_NORMED),
            has_plain_norms=not family.startswith(_OTHER_NORMS),
        )

    def input_bytes(self, item: int) -> int:
        """Bytes a token of what goes into the block: all that stays of one that is computed again."""
        return self.hidden_size * item

    def norm_bytes(self, width: int, item: int, device_type: str) -> int:
        """Bytes a token that a norm over `width` numbers keeps, without what it gives to those behind it.

        As `transformers` writes it, that is its input in fp32, which is no copy where the pass is in fp32, and what is
        normalised; the kernel on a GPU keeps its input alone.
        """
        return width * (item if device_type == "cuda" and self.has_plain_norms else MASTER_BYTES + item)

    def kept_bytes(self, item: int, tp_size: int, device_type: str) -> float:
        """Bytes a token that the block keeps for its backward pass, in the way autograd does, its input among them.

        What a norm gives is kept by the products behind it. Attention keeps queries and keys as they are rotated,
        values, output and log-sum-exp (FlashAttention-2, Dao 2023, algorithm 1); a product with the rotation itself
        keeps nothing, as that is not trained. The gated MLP keeps both projections, the activation of one, and their
        product. With tensor parallel a rank has its part of the last two.

        Args:
            item: bytes of a number in the pass.
            tp_size: ranks that share the block.
            device_type: "cuda" or "cpu".
        """
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        norms = 2 * (self.norm_bytes(self.hidden_size, item, device_type) + self.hidden_size * item)
        attention = 2 * (query + key) * item + self.num_heads * MASTER_BYTES
        if self.has_head_norms:
            attention += self.norm_bytes(query + key, item, device_type)
        mlp = 4 * self.inner_size * self.experts_per_token * item
        return norms + (attention + mlp) / tp_size

    def passing_bytes(self, item: int, tp_size: int) -> float:
        """Bytes a token that come and go in the backward pass: gradients of the output and of both projections."""
        return (self.hidden_size + 2 * self.inner_size * self.experts_per_token / tp_size) * item


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


def logits_bytes(num_tokens: int, chunk_size: int, vocab_size: int, item: int) -> int:
    """One chunk of the loss of a pack: logits in fp32 and, where the head computes in another dtype, a copy in that.

    The gradient takes their place, see `xtuner.v1.loss.cross_entropy`.
    """
    copies = MASTER_BYTES if item == MASTER_BYTES else MASTER_BYTES + item
    return min(num_tokens, chunk_size) * vocab_size * copies

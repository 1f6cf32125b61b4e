"""Model FLOPs: what a training step has to compute, whatever the code does besides, and the most a device can do.

The count is that of PaLM (Chowdhery et al. 2022, appendix B): 6 FLOPs for each parameter of a matrix and token, two
in the forward and four in the backward pass, and the two products of attention; as in Megatron-LM (Narayanan et al.
2021, section 5.1), causal attention counts only the pairs a query may see. Recomputation is not counted: MFU is the
share of the peak that serves the model. Norms, activations, rotary embeddings and the optimizer are left out.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from xtuner.v1.datasets.batches import StepBatch
from xtuner.v1.model.attention import head_dim

# --- What the model needs ---

# A product y = x W takes 2 FLOPs a weight forward, 2 for the gradient of x and, if W is trained, 2 for that of W.
_TRAINED, _FROZEN = 6, 4


@dataclass(frozen=True)
class AttentionLayer:
    """The quadratic part of one layer.

    Attributes:
        pair_dim: dimensions of keys and of values, over all query heads: H x (D_key + D_value).
        window: tokens a query may look at, itself included; None is all of its document.
    """

    pair_dim: int
    window: int | None

    def num_pairs(self, length: int) -> float:
        """Pairs of query and key in a causal document of `length` tokens, its triangle taken as length**2 / 2."""
        if self.window is None or length <= self.window:
            return length**2 / 2
        return length * self.window - self.window**2 / 2


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs to train a model, forward and backward.

    Attributes:
        per_token: of all matrices but the head; of the experts, those that a token is sent to.
        per_target: of the head, which only trained tokens go through.
        attention: the layers with attention over the document; linear ones (state-space, delta rule) have none, and
            their recurrence is not counted.
    """

    per_token: float
    per_target: float
    attention: tuple[AttentionLayer, ...]

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> "ModelFlops":
        """Of a decoder model, on the meta device or sharded: shapes are all that is read."""
        head = model.get_output_embeddings()
        head_flops = sum(_per_use(parameter) for parameter in head.parameters() if parameter.dim() >= 2) if head else 0
        config = model.config.get_text_config()
        return cls(sum(_matrix_flops(model, head, config)), head_flops, tuple(_attention_layers(config)))

    def of_documents(self, lengths: Sequence[int], num_targets: int) -> float:
        """Of documents of `lengths` tokens of which `num_targets` are trained."""
        attention = sum(6 * layer.pair_dim * layer.num_pairs(length) for layer in self.attention for length in lengths)
        return self.per_token * sum(lengths) + self.per_target * num_targets + attention

    def of_step(self, batch: StepBatch) -> float:
        """Of what one rank trains in one optimizer step; padding is no work for the model.

        Of a pack that ranks share each has its targets, and the same part of all else.
        """
        return sum(
            self.of_documents(pack.row_lengths, 0) / pack.num_parts + self.per_target * pack.num_targets
            for pack in batch.micro_batches
        )


def _matrix_flops(model: nn.Module, head: nn.Module | None, config: PreTrainedConfig) -> Iterator[float]:
    """Of each matrix, a token; embeddings are looked up and biases added, neither is multiplied."""
    num_experts, active_share = _experts(config)
    for path, module in model.named_modules():
        if module is head or isinstance(module, nn.Embedding):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() < 2 or name.endswith("bias"):
                continue
            # One tensor for all experts, or a list of modules: transformers has both.
            is_expert = "experts" in path.split(".") or (parameter.dim() == 3 and parameter.shape[0] == num_experts)
            yield _per_use(parameter) * (active_share if is_expert else 1.0)


def _per_use(parameter: torch.Tensor) -> int:
    return parameter.numel() * (_TRAINED if parameter.requires_grad else _FROZEN)


def _experts(config: PreTrainedConfig) -> tuple[int, float]:
    """How many routed experts a layer has, and the share of them that a token is sent to."""
    num_experts = _first_of(config, ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"))
    num_active = _first_of(config, ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk"))
    return (num_experts, num_active / num_experts) if num_experts and num_active else (0, 1.0)


def _attention_layers(config: PreTrainedConfig) -> Iterator[AttentionLayer]:
    num_heads = config.num_attention_heads
    # Multi-head latent attention (DeepSeek) has keys and values of different sizes.
    key_dim = _first_of(config, ("qk_nope_head_dim",)) + _first_of(config, ("qk_rope_head_dim",))
    value_dim = _first_of(config, ("v_head_dim",))
    pair_dim = num_heads * (key_dim + value_dim if key_dim and value_dim else 2 * head_dim(config))
    window = _first_of(config, ("sliding_window",)) or None
    # Without a list of kinds a window is that of every layer (Mistral).
    everywhere = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    for kind in getattr(config, "layer_types", None) or everywhere:
        if "attention" in kind and not kind.startswith("linear"):
            yield AttentionLayer(pair_dim, window if kind == "sliding_attention" else None)


def _first_of(config: PreTrainedConfig, names: tuple[str, ...]) -> int:
    """The first of these settings that the config has; 0 if none."""
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)


# --- What the device can do ---

# Dense bf16 with fp32 accumulation, FLOP/s, from the vendors' data sheets (theirs are often with sparsity: twice
# that). The first word that occurs in the device's name decides, so the special ones come first.
_PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 150e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX A6000", 155e12),
    ("RTX 5090", 210e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307e12),
)


def peak_flops(device: torch.device) -> float | None:
    """Most FLOP/s of `device` in dense bf16; None for a CPU and for devices that are not in the table."""
    return peak_flops_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_of(device_name: str) -> float | None:
    """The same for a device called `device_name` by its driver, such as `NVIDIA A100-SXM4-80GB`."""
    if re.search(r"\b(MIG|Laptop|RTX 4090 D)\b", device_name):  # a slice of a device, or a slower one of its name
        return None
    return next((peak for word, peak in _PEAK_FLOPS if re.search(rf"\b{word}\b", device_name)), None)

"""The option groups with a dot in their flags (`--fsdp-config.cpu-offload`)."""

from typing import Literal

from xtuner.v1.config.option import Options, option

_SHARDING = "Sharding and precision"


class FSDPConfig(Options):
    """How parameters are sharded, where they live and in which precision they compute."""

    cpu_offload: bool = option(
        False,
        "Keep parameters, gradients and optimizer state in host memory; slower, frees accelerator memory.",
        group=_SHARDING,
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "Dtype of the forward and backward pass; auto is bfloat16 on an accelerator and float32 on a CPU. "
        "Parameters, optimizer state and gradient reduction stay float32.",
        group=_SHARDING,
    )

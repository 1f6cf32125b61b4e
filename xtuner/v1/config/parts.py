"""Options inside options: groups with a dot in their flags (`--fsdp-config.cpu-offload`), and items of lists."""

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from xtuner.data.options import FormatName
from xtuner.v1.config.option import Options, option

_SHARDING = "Sharding and precision"


class DatasetConfig(Options):
    """One entry of `datasets`: data with a weight and a format of its own."""

    path: Path = option(..., "File of chats, directory or glob.", group="Data")
    ratio: float = option(
        1.0, "How often each row is used: 0.5 takes half of them, 2 each twice.", group="Data", gt=0, le=1000
    )
    format: FormatName = option("auto", "Shape of the rows.", group="Data")

    @field_validator("path", mode="before")
    @classmethod
    def _expand_home(cls, value: object) -> object:
        return Path(value).expanduser() if isinstance(value, str | Path) and str(value) else value


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

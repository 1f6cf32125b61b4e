"""Options inside options: groups with a dot in their flags (`--fsdp-config.cpu-offload`), and items of lists."""

import re
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from xtuner.data.options import FormatName
from xtuner.v1.config.option import Options, expand_home, option

_SHARDING = "Sharding and precision"

AttentionChoice = Literal["auto", "sdpa", "varlen", "flash2", "flash3"]
OptimizerName = Literal["adamw", "adamw-8bit", "muon"]
_SECONDS = {"s": 1, "min": 60, "h": 3600}
_INTERVAL = re.compile(r"0*([1-9][0-9]{0,8})(s|min|h)?")


def steps_or_seconds(text: str) -> tuple[int | None, float | None]:
    """An interval as steps, or as seconds: `100`, or `90s`, `30min`, `2h`.

    Raises:
        ValueError: it is neither.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError("give a number of steps, or a time such as 90s, 30min or 2h")
    number, unit = int(match[1]), match[2]
    return (None, float(number * _SECONDS[unit])) if unit else (number, None)


def seconds_or_none(text: str) -> float | None:
    """A length of time in seconds, or None for `off`.

    Raises:
        ValueError: it is neither.
    """
    if text == "off":
        return None
    match = _INTERVAL.fullmatch(text)
    if match is None or not match[2]:
        raise ValueError("give a time such as 90s, 10min or 2h, or off")
    return float(int(match[1]) * _SECONDS[match[2]])


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
        return expand_home(value)


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
    hsdp_sharding_size: int | None = option(
        None,
        "Ranks that share one copy of the model; the groups of so many ranks hold copies (HSDP).  "
        "[default: all ranks share one]",
        group=_SHARDING,
        unit="ranks",
        ge=1,
    )
    reshard_after_forward: bool = option(
        True,
        "Free a block's gathered weights after its forward pass; without, they stay until its backward pass: "
        "more memory, less communication.",
        group=_SHARDING,
    )
    prefetch: int = option(
        1, "Blocks whose weights are gathered ahead of the one that computes.", group=_SHARDING, unit="blocks", ge=0
    )
    recompute_ratio: float | None = option(
        None,
        "Share of the blocks that keep only their inputs for the backward pass and compute the rest again: "
        "much less memory, a third more time.  [default: 1 on an accelerator, 0 on a CPU]",
        group=_SHARDING,
        ge=0,
        le=1,
    )
    torch_compile: bool = option(
        False, "Compile each decoder block with torch.compile; the first steps take longer.", group=_SHARDING
    )


class LoraConfig(Options):
    """Low-rank adapters on frozen weights, by peft."""

    rank: int = option(0, "Rank of the LoRA adapters; 0 trains all weights.", group="LoRA", ge=0)
    alpha: int | None = option(
        None, "Adapters count alpha / rank times.  [default: twice the rank]", group="LoRA", ge=1
    )
    dropout: float = option(0.0, "Share of an adapter's inputs that is dropped in training.", group="LoRA", ge=0, lt=1)
    target_modules: tuple[str, ...] = option(
        (),
        "Layers to adapt, by name, with commas or given several times.  "
        "[default: all linear layers and experts of the decoder blocks]",
        group="LoRA",
        unit="name",
    )
    merge: bool = option(True, "Export the whole model too, with the adapters merged into its weights.", group="LoRA")

    @field_validator("target_modules", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return names
        return tuple(part.strip() for name in names for part in name.split(",") if part.strip())

    @property
    def exports_model(self) -> bool:
        """Whether a whole model comes out, and not an adapter alone."""
        return self.merge or not self.rank

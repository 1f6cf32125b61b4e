"""Options that let a run fit into memory: of all combinations that do, the one that costs least."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from xtuner.language import N_
from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import Estimate, estimate
from xtuner.launch.model_sizes import ModelSizes
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import flag_of
from xtuner.v1.config.memory import recompute_ratio

NPROC = "nproc_per_node"
_LORA_RANK = 16
_SMALL_CHUNK = 256
_SHORTEST_PACK = 512


@dataclass(frozen=True)
class Change:
    """One option set to another value.

    Attributes:
        key: its dotted name; `NPROC` is the number of ranks.
        value: what it becomes.
        cost: how much it costs, in shares of a step's time or in what comes near it for who has to choose.
        remark: the cost in words.
    """

    key: str
    value: Any
    cost: float
    remark: str

    @property
    def flag(self) -> str:
        """As typed on the command line."""
        flag = flag_of(self.key)
        return flag if self.value is True else f"{flag} {self.value}"


@dataclass(frozen=True)
class Fit:
    """Changes, and what the run needs with them."""

    changes: tuple[Change, ...]
    estimate: Estimate


def cheapest_fit(
    config: TrainerConfig, sizes: ModelSizes, hardware: Hardware, *, nproc: int, nnodes: int = 1
) -> Fit | None:
    """The cheapest changes with which `config` fits; none of them where it fits as it is, None where nothing helps."""
    choices = product(*([None, *alternatives] for alternatives in _alternatives(config, hardware, nproc)))
    candidates = [tuple(change for change in choice if change) for choice in choices]
    for changes in sorted(candidates, key=lambda changes: (sum(change.cost for change in changes), len(changes))):
        changed = with_changes(config, changes)
        ranks = next((change.value for change in changes if change.key == NPROC), nproc)
        needs = estimate(changed, sizes, hardware, nproc=ranks, nnodes=nnodes)
        if needs.fits:
            return Fit(changes, needs)
    return None


def with_changes(config: TrainerConfig, changes: tuple[Change, ...]) -> TrainerConfig:
    """`config` with the options of `changes`; the number of ranks is not one of its options."""
    values = config.model_dump()
    for change in changes:
        if change.key != NPROC:
            *above, name = change.key.split(".")
            level = values
            for part in above:
                level = level[part]
            level[name] = change.value
    return TrainerConfig.model_validate(values)


def _alternatives(config: TrainerConfig, hardware: Hardware, nproc: int) -> Iterator[list[Change]]:
    """What may be changed; of the changes in one list, one at most."""
    fsdp = config.fsdp_config
    if config.loss_chunk_size > _SMALL_CHUNK:
        yield [Change("loss_chunk_size", _SMALL_CHUNK, 0.02, N_("a little slower"))]
    if nproc < hardware.num_devices and _shares_evenly(config, hardware.num_devices):
        yield [Change(NPROC, hardware.num_devices, 0.1, N_("all devices of this machine"))]
    if config.optimizer == "adamw" and not config.lora.rank and importlib.util.find_spec("torchao"):
        yield [Change("optimizer", "adamw-8bit", 0.15, N_("optimizer state rounded to 8 bits"))]
    if recompute_ratio(fsdp, hardware.kind) < 1:
        yield [Change("fsdp_config.recompute_ratio", 1.0, 0.33, N_("a third more time"))]
    packs = [config.pack_max_length // 2**power for power in (1, 2, 3)]
    if shorter := [length for length in packs if length >= _SHORTEST_PACK]:
        yield [
            Change(
                "pack_max_length", length, 0.4 * power, N_("longer rows are cut") if length < config.max_length else ""
            )
            for power, length in enumerate(shorter, start=1)
        ]
    if hardware.kind != "cpu" and not fsdp.cpu_offload:
        yield [Change("fsdp_config.cpu_offload", True, 1.0, N_("each step waits for host memory"))]
    if config.load_from is not None and not config.lora.rank and importlib.util.find_spec("peft"):
        yield [Change("lora.rank", _LORA_RANK, 3.0, N_("trains adapters, not all weights"))]


def _shares_evenly(config: TrainerConfig, world_size: int) -> bool:
    group_size = config.sp_size * config.tp_size
    return world_size % group_size == 0 and config.sequences_per_step(world_size) % (world_size // group_size) == 0

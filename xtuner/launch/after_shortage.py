"""Options with which a run should fit that ran out of memory, from what it took until then."""

from dataclasses import dataclass, replace

from pydantic import ValidationError

from xtuner.errors import XTunerError
from xtuner.launch.devices import Hardware, find_hardware
from xtuner.launch.estimate import BASE_GIB, Estimate, estimate
from xtuner.launch.fit import Change, cheapest_fit
from xtuner.launch.model_sizes import ModelSizes, sizes_of
from xtuner.run.atomic import read_object
from xtuner.run.layout import RunDir
from xtuner.v1.config import TrainerConfig

# Below this share of the machine's memory, by the estimate, nothing suggests that memory was why a rank was killed.
_SUSPICIOUS = 0.5


@dataclass(frozen=True)
class Way:
    """Changes, and GiB that a device needs with them, and has, both as the failed run measured them."""

    changes: tuple[Change, ...]
    needed: float
    usable: float

    def sentence(self) -> str:
        """One line for a hint."""
        flags = " ".join(change.flag for change in self.changes)
        return f"likely to fit, by what this run took: {flags} (about {self.needed:.2f} of {self.usable:.2f} GiB)"


def way_after_shortage(
    config: TrainerConfig, sizes: ModelSizes, hardware: Hardware, *, needed_gib: float, nproc: int, nnodes: int = 1
) -> Way | None:
    """The cheapest changes with which `config` should fit; None where none would do.

    A rank that had or asked for `needed_gib` in all did not get it. So the run needs as much at least, and there is
    less for each rank: the estimate is scaled up where it was lower, and what there is down.
    """
    on_top = BASE_GIB["cuda"] if hardware.kind == "cuda" else 0.0  # what a rank can count there is tensors alone
    needed = needed_gib + on_top
    scale = max(1.0, needed / _estimate(config, sizes, hardware, nproc, nnodes).memory.total)
    there_is = replace(
        hardware,
        memory_gib=min(hardware.memory_gib, needed) / scale,
        host_gib=min(hardware.host_gib, needed * nproc) / scale if hardware.kind == "cpu" else hardware.host_gib,
    )
    fit = cheapest_fit(config, sizes, there_is, nproc=nproc, nnodes=nnodes)
    if fit is None:
        return None
    return Way(fit.changes, fit.estimate.memory.total * scale, fit.estimate.usable * scale)


def advice_after_shortage(run_dir: RunDir, *, needed_gib: float, nproc: int, nnodes: int) -> str:
    """What would make the run in `run_dir` fit, in one line; empty where it is not known."""
    known = _what_ran(run_dir)
    if known is None:
        return ""
    way = way_after_shortage(*known, needed_gib=needed_gib, nproc=nproc, nnodes=nnodes)
    return way.sentence() if way else ""


def advice_after_kill(run_dir: RunDir, *, nproc: int, nnodes: int) -> str:
    """The same for a rank that was killed and could say nothing; empty where memory is no likely reason."""
    known = _what_ran(run_dir)
    if known is None:
        return ""
    hardware = known[2]
    if hardware.kind != "cpu" or _estimate(*known, nproc, nnodes).host < _SUSPICIOUS * hardware.host_gib:
        return ""
    way = way_after_shortage(*known, needed_gib=hardware.host_gib / nproc, nproc=nproc, nnodes=nnodes)
    return way.sentence() if way else ""


def _what_ran(run_dir: RunDir) -> tuple[TrainerConfig, ModelSizes, Hardware] | None:
    try:
        config = TrainerConfig.model_validate(read_object(run_dir.config_json))
        return config, sizes_of(config), find_hardware()
    except (ValidationError, XTunerError):
        return None


def _estimate(config: TrainerConfig, sizes: ModelSizes, hardware: Hardware, nproc: int, nnodes: int) -> Estimate:
    return estimate(config, sizes, hardware, nproc=nproc, nnodes=nnodes)

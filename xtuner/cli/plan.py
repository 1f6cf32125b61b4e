"""`xtuner plan`: what a run will need, and the options that make it fit."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from xtuner.cli import console
from xtuner.cli.ranks import parse_ranks
from xtuner.errors import EnvironmentFault
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import with_flags

if TYPE_CHECKING:
    from xtuner.launch.devices import Hardware
    from xtuner.launch.estimate import Disk, Estimate
    from xtuner.launch.fit import Fit

_LABEL = 12
_MOMENTS = {
    "loss": "at the loss",
    "backward": "in the backward pass of a block",
    "embedding": "at the end of the backward pass",
}
_BAR = 30


@with_flags
def command(
    config: TrainerConfig,
    nproc_per_node: int = typer.Option(
        None, parser=parse_ranks, metavar="RANKS", help="Ranks on this machine.  [default: one an accelerator, else 1]"
    ),
    nnodes: int = typer.Option(1, min=1, metavar="MACHINES", help="Machines that train together."),
    device_memory: float = typer.Option(
        None, min=0.001, metavar="GIB", help="Plan for accelerators with so much memory, be they here or not."
    ),
    json: bool = typer.Option(False, "--json", help="Print the plan as JSON."),
) -> None:
    """Estimate memory and disk of a run before it starts, from config.json and the options alone.

    Takes the flags of `xtuner sft`. Exit code 5 when it does not fit; the cheapest options that would are named.

    \b
    Example:
      xtuner plan --load-from Qwen3-8B --pack-max-length 8192
      xtuner plan --load-from Qwen3-8B --nproc-per-node 8 --device-memory 80 --json
    """
    from xtuner.launch.devices import Hardware, find_hardware
    from xtuner.launch.estimate import estimate
    from xtuner.launch.fit import cheapest_fit
    from xtuner.launch.model_sizes import sizes_of

    hardware = find_hardware()
    if device_memory is not None:
        num_devices = nproc_per_node or hardware.num_devices or 1
        hardware = Hardware("cuda", "device", num_devices, device_memory, hardware.host_gib)
    nproc = nproc_per_node or hardware.num_devices or 1
    config.check_world_size(nproc * nnodes)
    sizes = sizes_of(config)
    needs = estimate(config, sizes, hardware, nproc=nproc, nnodes=nnodes)
    fit = None if needs.fits else cheapest_fit(config, sizes, hardware, nproc=nproc, nnodes=nnodes)
    if json:
        console.data_json(_to_json(needs, fit, hardware, nproc, sizes.num_parameters))
    else:
        console.data("\n".join(plan_lines(needs, fit, hardware, nproc, sizes.num_parameters)))
    if not needs.fits:
        raise typer.Exit(EnvironmentFault.exit_code)


def plan_lines(
    needs: "Estimate", fit: "Fit | None", hardware: "Hardware", nproc: int, num_parameters: int
) -> list[str]:
    """The plan in text; `fit` is what would make it fit, where it does not."""
    per = "process" if hardware.kind == "cpu" else "device"
    return [
        _row("hardware", hardware.sentence()),
        _row("ranks", f"{nproc} on this machine"),
        _row("model", f"{num_parameters:,} parameters, {needs.num_trained:,} of them trained"),
        "",
        f"memory of each {per}, GiB, when most is taken: {_MOMENTS[needs.moment]}",
        *_bars(needs),
        _row("host memory", f"{needs.host:.2f} of {needs.usable_host:.2f} GiB"),
        *_about_disk(needs.disk),
        "",
        *_verdict(needs, fit),
    ]


def _bars(needs: "Estimate") -> list[str]:
    from xtuner.launch.estimate import COMPONENTS

    lines = []
    for name in COMPONENTS:
        gib = getattr(needs.memory, name)
        lines.append(f"  {name:<{_LABEL}} {gib:>8.2f}  {'#' * round(_BAR * gib / needs.memory.total)}".rstrip())
    return [*lines, f"  {'total':<{_LABEL}} {needs.memory.total:>8.2f}  of {needs.usable:.2f} that can be used"]


def _about_disk(disk: "Disk") -> list[str]:
    return [
        _row("an export", f"{disk.export:.2f} GiB"),
        _row("a checkpoint", f"{disk.checkpoint:.2f} GiB"),
        _row(
            "disk", f"{disk.needed:.2f} GiB at most, {disk.free:.2f} GiB free" + ("" if disk.fits else ": NOT ENOUGH")
        ),
    ]


def _verdict(needs: "Estimate", fit: "Fit | None") -> list[str]:
    if needs.fits:
        return ["OK: it fits into memory, by this estimate"]
    if fit is None:
        return ["FAIL: it does not fit into memory; more devices, or a smaller model"]
    lines = ["FAIL: it does not fit into memory; the cheapest options that would make it fit:"]
    lines += [f"  {change.flag}  {change.remark}".rstrip() for change in fit.changes]
    return [*lines, f"  then {fit.estimate.memory.total:.2f} of {fit.estimate.usable:.2f} GiB"]


def _to_json(
    needs: "Estimate", fit: "Fit | None", hardware: "Hardware", nproc: int, num_parameters: int
) -> dict[str, Any]:
    return {
        "fits": needs.fits,
        "hardware": asdict(hardware),
        "nproc_per_node": nproc,
        "parameters": num_parameters,
        "trained_parameters": needs.num_trained,
        "memory_gib": {**asdict(needs.memory), "total": needs.memory.total, "usable": needs.usable},
        "moment": needs.moment,
        "host_gib": {"needed": needs.host, "usable": needs.usable_host},
        "disk_gib": asdict(needs.disk),
        "fix": None
        if fit is None
        else {
            "flags": [argument for change in fit.changes for argument in shlex.split(change.flag)],
            "total": fit.estimate.memory.total,
        },
    }


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL + 2}} {text}"

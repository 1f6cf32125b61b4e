"""`xtuner plan`: what a run will need, and the options that make it fit."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from xtuner.cli import console
from xtuner.cli.ranks import parse_ranks
from xtuner.errors import EnvironmentFault, UsageError
from xtuner.run.figures import duration
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import with_flags

if TYPE_CHECKING:
    from xtuner.launch.devices import Hardware
    from xtuner.launch.estimate import Disk, Estimate
    from xtuner.launch.fit import Fit
    from xtuner.launch.plan import LaunchPlan
    from xtuner.launch.timing import Timing

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
    time_steps: int = typer.Option(
        None,
        min=1,
        metavar="STEPS",
        help="Run so many steps, leave nothing behind, and say how long all will take.",
    ),
    json: bool = typer.Option(False, "--json", help="Print the plan as JSON."),
) -> None:
    """Estimate memory and disk of a run before it starts, from config.json and the options alone.

    Takes the flags of `xtuner sft`. Exit code 5 when it does not fit; the cheapest options that would are named.
    With --time-steps a few steps are run, in a directory that is removed, unless the run does not fit.

    \b
    Example:
      xtuner plan --load-from Qwen3-8B --pack-max-length 8192
      xtuner plan --load-from Qwen3-8B --nproc-per-node 8 --device-memory 80 --json
      xtuner plan --load-from Qwen3-0.6B --dataset chats.jsonl --time-steps 5
    """
    from xtuner.launch.devices import Hardware, find_hardware
    from xtuner.launch.estimate import estimate
    from xtuner.launch.fit import cheapest_fit
    from xtuner.launch.model_sizes import sizes_of
    from xtuner.launch.plan import LaunchPlan

    hardware = find_hardware()
    if time_steps and device_memory:
        raise UsageError(
            f"--time-steps {time_steps} and --device-memory {device_memory:g} are both given",
            hint="steps can be timed on the devices that are here alone: leave --device-memory out",
        )
    if device_memory is not None:
        num_devices = nproc_per_node or hardware.num_devices or 1
        hardware = Hardware("cuda", "device", num_devices, device_memory, hardware.host_gib)
    nproc = nproc_per_node or hardware.num_devices or 1
    config.check_world_size(nproc * nnodes)
    sizes = sizes_of(config)
    needs = estimate(config, sizes, hardware, nproc=nproc, nnodes=nnodes)
    fit = None if needs.fits else cheapest_fit(config, sizes, hardware, nproc=nproc, nnodes=nnodes)
    timing = None
    if not json:
        console.data("\n".join(plan_lines(needs, fit, hardware, nproc, sizes.num_parameters)))
    if time_steps and needs.fits:
        timing = _time(LaunchPlan(config=config, nproc_per_node=nproc, nnodes=nnodes), time_steps)
    if json:
        console.data_json(_to_json(needs, fit, hardware, nproc, sizes.num_parameters, timing))
    elif timing:
        console.data("\n".join(["", *_about_time(timing)]))
    if not needs.fits:
        raise typer.Exit(EnvironmentFault.exit_code)


def _time(plan: "LaunchPlan", num_steps: int) -> "Timing":
    """Time steps of `plan`; a signal ends that.

    Raises:
        XTunerError: see `check_inputs` and `time_steps`.
    """
    from xtuner.launch.stop_signals import StopSignals
    from xtuner.launch.timing import time_steps
    from xtuner.preflight import check_inputs

    check_inputs(plan.config, plan.world_size)
    console.say(f"running {num_steps} steps and one to warm up; Ctrl-C ends it")
    with StopSignals(is_detached=False) as signals:
        return time_steps(
            plan,
            num_steps,
            on_step=lambda step: console.say(f"step {step} of {num_steps + 1}"),
            is_cancelled=lambda: bool(signals.received),
        )


def _about_time(timing: "Timing") -> list[str]:
    return [
        _row("timed", f"{timing.num_timed} steps, {timing.step_time_s:.3g} s each in the median"),
        _row("speed", f"{timing.tokens_per_s:,.0f} tokens/s of all ranks"),
        _row("the run", f"{timing.total_steps:,} steps: about {duration(timing.duration_s)} (h:mm:ss) of training"),
    ]


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
    needs: "Estimate",
    fit: "Fit | None",
    hardware: "Hardware",
    nproc: int,
    num_parameters: int,
    timing: "Timing | None",
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
        "timing": {**asdict(timing), "duration_s": timing.duration_s} if timing else None,
    }


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL + 2}} {text}"

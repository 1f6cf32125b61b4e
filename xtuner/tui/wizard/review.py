"""The plan in words: what Review shows, and what is left in text where there is no screen."""

import shlex
from collections.abc import Iterator

from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import COMPONENTS, Estimate
from xtuner.launch.plan import sft_command
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.data_look import DataLook
from xtuner.tui.wizard.inspection import Inspection
from xtuner.tui.wizard.steps import STEPS

_LABEL = 16
_SIGNS = {"error": "✗", "open": "?", "warning": "!", "ok": "-"}


def command_line(inspection: Inspection, default_nproc: int) -> str:
    """The `xtuner sft` that does the same, ready for a shell."""
    return shlex.join(sft_command(inspection.plan, default_nproc=default_nproc))


def review_lines(answers: Answers, inspection: Inspection, look: DataLook | None, hardware: Hardware) -> list[str]:
    """Everything on one page."""
    is_ready = inspection.is_ready
    lines = ["✓ ready to launch" if is_ready else "✗ not ready: mend what is marked with ✗ or ?", ""]
    for step in STEPS:
        given = [field for field in step.fields if answers.source(field.key) != "default"]
        if given:
            lines.append(step.title)
            lines += [f"  {field.flag} {answers.text(field.key)}  ({answers.source(field.key)})" for field in given]
    lines += ["", *_about_run(inspection, look), _row("hardware", hardware.sentence())]
    if inspection.needs is not None:
        lines += [*_about_memory(inspection.needs)]
    if inspection.remarks:
        lines.append("")
    for remark in inspection.remarks:
        lines.append(f"{_SIGNS[remark.state]} {remark.text}")
        lines += [f"    hint: {line}" for line in remark.hint.splitlines()]
    return lines


def _about_run(inspection: Inspection, look: DataLook | None) -> Iterator[str]:
    plan = inspection.plan
    config = plan.config
    num_sequences = config.sequences_per_step(plan.world_size) or 1
    tokens = num_sequences * config.pack_max_length
    yield _row("a step", f"{num_sequences:,} sequences of {config.pack_max_length:,} tokens: at most {tokens:,} tokens")
    forecast = look.forecast(config.pack_max_length, num_sequences) if look else None
    if forecast:
        yield _row("an epoch", f"{forecast.steps_per_epoch:,} steps")
        total = config.total_step or (config.epoch_num or 1) * forecast.steps_per_epoch
        yield _row("the run", f"{total:,} steps")
    elif config.total_step:
        yield _row("the run", f"{config.total_step:,} steps")
    if inspection.sizes and inspection.needs:
        yield _row(
            "parameters", f"{inspection.sizes.num_parameters:,}, {inspection.needs.num_trained:,} of them trained"
        )


def _about_memory(needs: Estimate) -> Iterator[str]:
    parts = ", ".join(f"{name} {getattr(needs.memory, name):.2f}" for name in COMPONENTS)
    yield _row("memory", f"{needs.memory.total:.2f} of {needs.usable:.2f} GiB on each device, estimated: {parts}")
    disk = needs.disk
    yield _row(
        "disk",
        f"{disk.needed:.2f} GiB at most ({disk.export:.2f} an export, {disk.checkpoint:.2f} a checkpoint), "
        f"{disk.free:.2f} GiB free",
    )


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}} {text}"

"""The plan in words: what Review shows, and what is left in text where there is no screen."""

import shlex
from collections.abc import Iterator

from xtuner.language import _
from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import COMPONENTS, Estimate
from xtuner.launch.plan import sft_command
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.columns import left
from xtuner.tui.wizard.data_look import DataLook
from xtuner.tui.wizard.inspection import Inspection
from xtuner.tui.wizard.steps import STEPS

_LABEL = 16
_SIGNS = {"error": "✗", "open": "?", "warning": "!", "ok": "-"}


def command_line(inspection: Inspection, default_nproc: int) -> str:
    """The `xtuner sft` that does the same, ready for a shell."""
    return shlex.join(sft_command(inspection.plan, default_nproc=default_nproc))


def review_lines(
    answers: Answers, inspection: Inspection, look: DataLook | None, hardware: Hardware, *, duration: str = ""
) -> list[str]:
    """Everything on one page; `duration` is what is known of that."""
    is_ready = inspection.is_ready
    lines = [_("✓ ready to launch") if is_ready else _("✗ not ready: mend what is marked with ✗ or ?"), ""]
    for step in STEPS:
        given = [field for field in step.fields if answers.source(field.key) != "default"]
        if given:
            lines.append(_(step.title))
            lines += [f"  {field.flag} {answers.text(field.key)}  ({_(answers.source(field.key))})" for field in given]
    lines += ["", *_about_run(inspection, look)]
    lines += [_row(_("duration"), duration)] if duration else []
    lines.append(_row(_("hardware"), hardware.sentence()))
    if inspection.needs is not None:
        lines += [*_about_memory(inspection.needs)]
    if inspection.remarks:
        lines.append("")
    for remark in inspection.remarks:
        lines.append(f"{_SIGNS[remark.state]} {remark.text}")
        lines += ["  " + _("  hint: {hint}").format(hint=line) for line in remark.hint.splitlines()]
    return lines


def _about_run(inspection: Inspection, look: DataLook | None) -> Iterator[str]:
    plan = inspection.plan
    config = plan.config
    num_sequences = config.sequences_per_step(plan.world_size) or 1
    tokens = num_sequences * config.pack_max_length
    said = _("{sequences:,} sequences of {length:,} tokens: at most {tokens:,} tokens")
    yield _row(_("a step"), said.format(sequences=num_sequences, length=config.pack_max_length, tokens=tokens))
    steps = _("{steps:,} steps")
    forecast = look.forecast(config.pack_max_length, num_sequences) if look else None
    if forecast:
        yield _row(_("an epoch"), steps.format(steps=forecast.steps_per_epoch))
        total = config.total_step or (config.epoch_num or 1) * forecast.steps_per_epoch
        yield _row(_("the run"), steps.format(steps=total))
    elif config.total_step:
        yield _row(_("the run"), steps.format(steps=config.total_step))
    if inspection.sizes and inspection.needs:
        said = _("{parameters:,}, {trained:,} of them trained")
        parameters, trained = inspection.sizes.num_parameters, inspection.needs.num_trained
        yield _row(_("parameters"), said.format(parameters=parameters, trained=trained))


def _about_memory(needs: Estimate) -> Iterator[str]:
    parts = ", ".join(f"{_(name)} {getattr(needs.memory, name):.2f}" for name in COMPONENTS)
    said = _("{needed:.2f} of {usable:.2f} GiB on each device, estimated: {parts}")
    yield _row(_("memory"), said.format(needed=needs.memory.total, usable=needs.usable, parts=parts))
    said = _("{needed:.2f} GiB at most ({export:.2f} an export, {checkpoint:.2f} a checkpoint), {free:.2f} GiB free")
    yield _row(_("disk"), said.format(**vars(needs.disk)))


def _row(label: str, text: str) -> str:
    return f"{left(label, _LABEL)} {text}"

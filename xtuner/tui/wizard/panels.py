"""What stands beside the questions of a step: verdicts, samples, the memory bar. Text in, text out; no widget."""

import shlex

from rich.cells import cell_len
from rich.text import Text

from xtuner.data.view import RowView
from xtuner.hub.model_dir import ModelReport
from xtuner.language import _
from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import COMPONENTS, Estimate
from xtuner.run.text import visible
from xtuner.tui.preview.layout import GUTTER, ViewOptions, is_trained, lay_out
from xtuner.tui.wizard.columns import left, right
from xtuner.tui.wizard.data_look import DataLook
from xtuner.tui.wizard.fields import Field
from xtuner.tui.wizard.inspection import Inspection
from xtuner.tui.wizard.rail import SIGNS
from xtuner.tui.wizard.steps import PRESETS, StepName
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.required import missing_flags

_LOOKS = {"trained": "bold underline green", "special": "dim", "error": "bold red", "role": "bold", "rule": "yellow"}
_STATES = {"error": "bold red", "open": "bold", "warning": "yellow", "ok": ""}
_BLOCKS = "█▓▒░▚▞"  # one a component, so that they can be told apart without colour
_COLOURS = ("green", "cyan", "blue", "magenta", "yellow", "white")


def panel(step: StepName, inspection: Inspection, look: DataLook | None, hardware: Hardware, width: int) -> Text:
    """The panel of `step`, `width` cells wide."""
    text = Text()
    _add_remarks(text, step, inspection)
    if step == "model":
        _add_model(text, inspection.model)
    elif step == "data":
        _add_data(text, look, width)
    elif step == "hardware":
        text.append(f"{visible(hardware.sentence())}\n")
        if inspection.needs is not None:
            _add_memory(text, inspection, hardware, inspection.needs, width)
        else:
            text.append(_("memory is estimated when the model is known") + "\n")
    elif step == "training":
        for preset in PRESETS:
            text.append(f"{_(preset.name)}: {_(preset.help)}\n")
    elif step == "output" and inspection.needs is not None:
        disk = inspection.needs.disk
        text.append(f"{left(_('an export'), 16)} {disk.export:>8.2f} GiB\n")
        text.append(f"{left(_('a checkpoint'), 16)} {disk.checkpoint:>8.2f} GiB\n")
        free = _("{needed:>8.2f} GiB of {free:.2f} GiB free").format(needed=disk.needed, free=disk.free)
        text.append(f"{left(_('all at a time'), 16)} {free}\n")
    return text


def about(field: Field) -> str:
    """What a question means, with its unit and its default."""
    unit = f" ({_(field.unit)})" if field.unit else ""
    default = field.show(field.default)
    shown = _(default) if field.kind == "switch" else shlex.quote(default) if default else ""
    return f"{field.flag}{unit}: {field.describe(shown)}"


def command_text(command: str, config: TrainerConfig) -> Text:
    """The command line, and what `config` still lacks."""
    text = Text(visible(command))
    for flag in missing_flags(config):
        text.append(f" {flag}=", "")
        text.append("???", "reverse")
    return text


def _add_remarks(text: Text, step: StepName, inspection: Inspection) -> None:
    for remark in inspection.of_step(step):
        text.append(f"{SIGNS[remark.state]} {visible(remark.text)}\n", _STATES[remark.state])
        for line in remark.hint.splitlines():
            text.append(_("  hint: {hint}").format(hint=visible(line)) + "\n", "italic")
    if inspection.of_step(step):
        text.append("\n")


def _add_model(text: Text, report: ModelReport | None) -> None:
    if report is None:
        text.append(_("a model directory: config.json, safetensors weights, tokenizer") + "\n")
        return
    if report.suggestion is not None:
        text.append(_("Ctrl+R uses {path}").format(path=visible(str(report.suggestion))) + "\n", "bold")
    if report.summary is None:
        return
    summary = report.summary
    text.append(_("✓ OK: this model can be trained") + "\n" if report.ok else "", "bold green")
    said = _("{architecture}, {parameters:,} parameters in {dtype}, {layers} layers, context {context}")
    text.append(
        said.format(
            architecture=visible(summary.architecture),
            parameters=summary.num_parameters,
            dtype=summary.dtype,
            layers=summary.num_layers or "?",
            context=summary.context_length or "?",
        )
        + "\n"
    )


def _add_data(text: Text, look: DataLook | None, width: int) -> None:
    if look is None:
        text.append(_("one chat a line: a list of messages, ShareGPT, Alpaca or plain text") + "\n")
        return
    for line in look.lines(width):
        text.append(f"{visible(line)}\n")
    for sample in look.samples:
        text.append("\n")
        text.append_text(sample_text(sample, width))
    if look.samples and look.has_model:
        text.append("\n" + _("{bar}beside a line and underlined: trained").format(bar=GUTTER), "dim")


def sample_text(view: RowView, width: int) -> Text:
    """A row as the model sees it: trained text is underlined, and a bar stands beside its lines."""
    text = Text()
    text.append(f"{visible(view.where)}\n", "dim")
    for line in lay_out(view, ViewOptions(), max(10, width)).lines:
        text.append(GUTTER if is_trained(line) else " " * len(GUTTER), "green")
        for run in line:
            text.append(run.text, " ".join(_LOOKS[kind] for kind in run.kinds if kind in _LOOKS))
        text.append("\n")
    return text


def _add_memory(text: Text, inspection: Inspection, hardware: Hardware, needs: Estimate, width: int) -> None:
    said = _("{needed:.2f} of {usable:.2f} GiB on each device, estimated")
    if hardware.kind == "cpu":
        said = _("{needed:.2f} of {usable:.2f} GiB on each process, estimated")
    sign = "✓" if needs.fits else "✗"
    text.append(
        f"{sign} {said.format(needed=needs.memory.total, usable=needs.usable)}\n",
        "bold" if needs.fits else "bold red",
    )
    text.append_text(memory_bar(needs, max(10, width - 2)))
    for name, block, colour in zip(COMPONENTS, _BLOCKS, _COLOURS, strict=True):
        text.append(f"{block} ", colour)
        text.append(f"{left(_(name), 12)} {getattr(needs.memory, name):>8.2f}\n")
    if hardware.kind != "cpu":
        said = _("{needed:>8.2f} of {usable:.2f}").format(needed=needs.host, usable=needs.usable_host)
        text.append(f"{left(_('host memory'), 14)} {said}\n")
    if inspection.fit is not None:
        changes = ", ".join(f"{change.flag} ({_(change.remark)})" for change in inspection.fit.changes)
        fitted = inspection.fit.estimate
        text.append(_("Ctrl+R makes it fit: {changes}").format(changes=changes), "bold")
        then = _("; then {needed:.2f} of {usable:.2f} GiB")
        text.append(then.format(needed=fitted.memory.total, usable=fitted.usable) + "\n")


def memory_bar(needs: Estimate, width: int) -> Text:
    """One line of blocks: as wide as the memory that can be used, or as what is needed where that is more."""
    scale = width / max(needs.memory.total, needs.usable)
    text = Text()
    used = done = 0.0
    for name, block, colour in zip(COMPONENTS, _BLOCKS, _COLOURS, strict=True):
        used += getattr(needs.memory, name)
        cells = round(used * scale) - round(done * scale)
        text.append(block * cells, colour)
        done = used
    limit = round(needs.usable * scale)
    if needs.fits:
        text.append("·" * (limit - round(used * scale)), "dim")
    text.append("│\n")
    if not needs.fits:
        said = _("all that can be used")
        is_left = limit > cell_len(said)
        text.append(f"{right(f'{said} ┘', limit + 1)}\n" if is_left else " " * limit + f"└ {said}\n", "red")
    return text

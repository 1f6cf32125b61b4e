"""All answers judged by the real checks, each remark with the step it belongs to."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from xtuner.data.sources import find_files
from xtuner.errors import XTunerError
from xtuner.hub.findings import REASON_CODES, Finding, Severity
from xtuner.hub.model_dir import ModelReport, inspect_model
from xtuner.language import N_, _
from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import Estimate, estimate
from xtuner.launch.fit import Fit, cheapest_fit
from xtuner.launch.model_sizes import ModelSizes, sizes_of
from xtuner.launch.plan import LaunchPlan
from xtuner.preflight import check_inputs
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.data_look import DataLook
from xtuner.tui.wizard.steps import STEPS, StepName, step_of, step_of_error
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.required import missing_flags

State = Literal["open", "ok", "warning", "error"]


@dataclass(frozen=True)
class Remark:
    """One thing to say about a step; `hint` is what mends it."""

    step: StepName
    state: State
    text: str
    hint: str = ""

    @classmethod
    def of_error(cls, error: XTunerError, step: StepName | None = None) -> "Remark":
        """An error in the words of the command line."""
        return cls(step or step_of_error(error), "error", error.message, error.hint)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        plan: the launch, with defaults for answers that are wrong.
        remarks: of all steps.
        model: the report on the model directory, where one is answered.
        sizes: of the model, where they are known.
        needs: memory and disk, where the sizes are known.
        fit: the changes that let it fit, where it does not.
    """

    plan: LaunchPlan
    remarks: tuple[Remark, ...]
    model: ModelReport | None = None
    sizes: ModelSizes | None = None
    needs: Estimate | None = None
    fit: Fit | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the run can be launched."""
        return not any(remark.state in ("open", "error") for remark in self.remarks)

    @property
    def names_hub_model(self) -> bool:
        """Whether the answer to the question for the model is the name or the address of one on the Hub."""
        return self.model is not None and any(finding.code == "HUB_ID" for finding in self.model.findings)

    def of_step(self, step: StepName) -> list[Remark]:
        """Its remarks."""
        return [remark for remark in self.remarks if remark.step == step]

    def state(self, step: StepName) -> State:
        """The worst of its remarks; Review is open until all else is well."""
        states = {remark.state for remark in self.of_step(step)}
        if step == "review" and not states and not self.is_ready:
            return "open"
        return next((state for state in ("error", "open", "warning") if state in states), "ok")

    def first_hindrance(self) -> Remark | None:
        """What stands in the way of a launch, in the order of the steps."""
        order = [step.name for step in STEPS]
        hindrances = [remark for remark in self.remarks if remark.state in ("open", "error")]
        return min(hindrances, key=lambda remark: order.index(remark.step), default=None)


@dataclass
class Inspector:
    """Judges answers; the look at a model directory is kept as long as the directory stays as it is.

    Attributes:
        hardware: of this machine.
        template: the parts of the launch that are not asked for.
    """

    hardware: Hardware
    template: LaunchPlan
    _models: dict[tuple[str, int], ModelReport] = field(default_factory=dict)

    def inspect(self, answers: Answers) -> Inspection:
        """Everything there is to say about `answers`; seconds at most, whatever the size of the data."""
        config = answers.valid_config()
        plan = LaunchPlan(
            config=config,
            nproc_per_node=answers.nproc or self.template.nproc_per_node,
            nnodes=self.template.nnodes,
            node_rank=self.template.node_rank,
            rdzv_endpoint=self.template.rdzv_endpoint,
        )
        model = self._report(config.load_from) if config.load_from is not None else None
        sizes = self._sizes(config, model)
        needs = fit = None
        if sizes is not None and plan.world_size % (config.sp_size * config.tp_size) == 0:
            ranks = {"nproc": plan.nproc_per_node, "nnodes": plan.nnodes}
            needs = estimate(config, sizes, self.hardware, **ranks)
            fit = None if needs.fits else cheapest_fit(config, sizes, self.hardware, **ranks)
        remarks = [
            *(Remark.of_error(error, step_of(key)) for key, error in answers.errors().items()),
            *_missing(config),
            *_about_model(model),
            *_about_data(config),
            *_about_needs(needs, fit),
        ]
        if not any(remark.state == "open" for remark in remarks):
            remarks += _contradictions(plan, remarks)
        return Inspection(plan, tuple(remarks), model, sizes, needs, fit)

    def _report(self, path: Path) -> ModelReport:
        try:
            changed_ns = os.stat(path).st_mtime_ns
        except (OSError, ValueError):
            changed_ns = 0
        key = (str(path), changed_ns)
        if key not in self._models or not changed_ns:
            self._models[key] = inspect_model(path, needs_chat_template=False)
        return self._models[key]

    def _sizes(self, config: TrainerConfig, model: ModelReport | None) -> ModelSizes | None:
        if (model is None or not model.ok) and config.model_cfg is None:
            return None
        try:
            return sizes_of(config)
        except XTunerError:  # the check of the model says it, or nothing is lost but the estimate
            return None


def with_look(inspection: Inspection, look: DataLook | None) -> Inspection:
    """`inspection` with what the look at the data found: rows in error keep a run from starting."""
    remarks: list[Remark] = []
    if look is not None and look.error is not None:
        remarks.append(Remark.of_error(look.error, "data"))
    elif look is not None and look.health is not None and look.health.problems.num_errors:
        try:
            look.health.problems.raise_errors(is_whole_file=look.health.every == 1)
        except XTunerError as error:
            remarks.append(Remark.of_error(error, "data"))
    elif look is not None and look.health is not None and look.health.problems.num_warnings:
        said = _("{warnings:,} warnings on rows").format(warnings=look.health.problems.num_warnings)
        remarks.append(Remark("data", "warning", said))
    return replace(inspection, remarks=(*inspection.remarks, *remarks))


def _missing(config: TrainerConfig) -> Iterator[Remark]:
    steps: dict[str, StepName] = {"--load-from": "model", "--tokenizer-path": "model", "--dataset": "data"}
    words = {
        "--load-from": N_("which model is to be trained?"),
        "--tokenizer-path": N_("--model-cfg is given without --tokenizer-path"),
        "--dataset": N_("which chats is it to be trained on?"),
    }
    return (Remark(steps[flag], "open", _(words[flag]), flag) for flag in missing_flags(config))


def _about_model(report: ModelReport | None) -> Iterator[Remark]:
    states: dict[Severity, State] = {Severity.FAIL: "error", Severity.WARN: "warning", Severity.INFO: "ok"}
    for finding in report.findings if report else ():
        yield Remark("model", states[finding.severity], _about_finding(finding), finding.hint)


def _about_finding(finding: Finding) -> str:
    """The words of the command line; in another language behind what the finding means in general."""
    meaning = REASON_CODES[finding.code]
    translated = _(meaning)
    told = finding.message if translated == meaning else f"{translated} {finding.message}"
    return f"{finding.code}: {told}"


def _about_data(config: TrainerConfig) -> Iterator[Remark]:
    for step, specs in (("data", config.data_specs), ("training", config.eval_specs)):
        try:
            if specs:
                find_files(specs)
        except XTunerError as error:
            yield Remark.of_error(error, "data" if step == "data" else "training")


def _about_needs(needs: Estimate | None, fit: Fit | None) -> Iterator[Remark]:
    if needs is None:
        return
    if not needs.fits:
        said = _("it needs about {needed:.2f} GiB of the {usable:.2f} GiB of each device")
        needed, usable = needs.memory.total, needs.usable
        if needed <= usable:
            said = _("it needs about {needed:.2f} GiB of the {usable:.2f} GiB of host memory")
            needed, usable = needs.host, needs.usable_host
        changes = ", ".join(change.flag for change in fit.changes) if fit else _("more devices, or a smaller model")
        yield Remark("hardware", "warning", said.format(needed=needed, usable=usable), changes)
    if not needs.disk.fits:
        said = _("the run may take {needed:.2f} GiB of disk, and {free:.2f} GiB are free")
        hint = _("keep fewer with --checkpoint-maxkeep and --hf-max-keep")
        yield Remark("output", "warning", said.format(needed=needs.disk.needed, free=needs.disk.free), hint)


def _contradictions(plan: LaunchPlan, told: list[Remark]) -> Iterator[Remark]:
    """What `xtuner sft` would refuse; what was said already is not said again."""
    try:
        plan.check()
        check_inputs(plan.config, plan.world_size)
    except XTunerError as error:
        if not any(error.message in remark.text or remark.text.endswith(error.message) for remark in told):
            remark = Remark.of_error(error)
            is_told = remark.step == "model" and any(other.step == "model" and other.state == "error" for other in told)
            if not is_told:
                yield remark

"""The guided launch in numbered lines of text: no screen, no drawing, one question at a time, for screen readers."""

from itertools import count
from pathlib import Path

from xtuner.cli import console
from xtuner.cli.preview_text import show_view
from xtuner.cli.wizard_download import download_plainly
from xtuner.errors import XTunerError
from xtuner.language import N_, _
from xtuner.launch.plan import LaunchPlan
from xtuner.launch.stop_signals import StopSignals
from xtuner.launch.timing import time_steps
from xtuner.run.atomic import atomic_write
from xtuner.run.text import visible
from xtuner.tui.wizard.answers import Answers, config_yaml, keep
from xtuner.tui.wizard.candidates import find_models
from xtuner.tui.wizard.data_look import DataLook, LookRequest, look_at
from xtuner.tui.wizard.fields import Field
from xtuner.tui.wizard.inspection import Inspection, Inspector, with_look
from xtuner.tui.wizard.review import command_line, review_lines
from xtuner.tui.wizard.step_timer import NUM_STEPS, words_of_timing
from xtuner.tui.wizard.steps import PRESETS, STEPS, Step, apply_preset, preset_of

_WIDTH = 72
_MAX_MODELS = 9
_WORDS = {"error": N_("error"), "open": N_("missing"), "warning": N_("warning"), "ok": N_("note")}


class _Left(Exception):
    """The user has had enough."""


def ask_plainly(answers: Answers, inspector: Inspector) -> LaunchPlan | None:
    """Ask step by step until the user launches or leaves; None when they left."""
    try:
        return _Prompts(answers, inspector).run()
    except (_Left, EOFError, KeyboardInterrupt):
        console.say()
        return None


class _Prompts:
    def __init__(self, answers: Answers, inspector: Inspector) -> None:
        self._answers = answers
        self._inspector = inspector
        self._look: DataLook | None = None
        self._looked_at: LookRequest | None = None

    def run(self) -> LaunchPlan:
        """All steps, in any order."""
        console.say(_("Numbers choose, Enter goes on, b goes back, q leaves; your answers are kept."))
        place = 0
        while True:
            place = max(0, place + self._step(place))
            if place >= len(STEPS):
                inspection = self._inspect()
                hindrance = inspection.first_hindrance()
                if hindrance is None:
                    return self._answers.plan(self._inspector.template)
                console.say(_("not yet: {reason}").format(reason=hindrance.text))
                place = next(number for number, step in enumerate(STEPS) if step.name == hindrance.step)

    def _step(self, place: int) -> int:
        """One step, until it is left; how many steps to go on."""
        step = STEPS[place]
        said = _("Step {number} of {steps}: {title}")
        console.say("\n" + said.format(number=place + 1, steps=len(STEPS), title=_(step.title)))
        if step.name == "model" and not self._answers.text("load_from") and not self._answers.text("model_cfg"):
            self._ask_for_model()
        elif step.name == "data" and not self._answers.text("dataset") and not self._answers.text("datasets"):
            self._ask(step.fields[0])
        shows_all = False
        while True:
            fields = step.fields if shows_all else [field for field in step.fields if field.key in step.first]
            self._show(step, fields)
            said = _input(self._prompt(step, shows_all))
            if said == "":
                return 1
            if said == "b":
                return -1
            if said == "m":
                shows_all = True
            else:
                self._do(step, fields, said)

    def _prompt(self, step: Step, shows_all: bool) -> str:
        if step.name == "review":
            return _("Enter launches, t times a few steps, s saves a YAML file, b goes back, q leaves: ")
        more = "" if shows_all else _("m more options, ")
        presets = _("p preset, ") if step.name == "training" else ""
        said = _("number to change, {presets}{more}f fix, Enter next step, b back, q leave: ")
        return said.format(presets=presets, more=more)

    def _show(self, step: Step, fields: list[Field]) -> None:
        for number, field in enumerate(fields, start=1):
            text = self._answers.text(field.key) or _("not given")
            console.say(f"{number}. {field.flag}: {text} ({_(self._answers.source(field.key))})")
        inspection = self._inspect()
        if step.name == "review":
            console.say("\n".join(review_lines(self._answers, inspection, self._look, self._inspector.hardware)))
            console.say(_("the command that does the same:"))
            console.data(command_line(inspection, self._inspector.template.nproc_per_node))
            return
        if step.name == "training":
            console.say(_("preset: {preset}").format(preset=_(preset_of(self._answers))))
        self._show_findings(step, inspection)

    def _show_findings(self, step: Step, inspection: Inspection) -> None:
        for remark in inspection.of_step(step.name):
            console.say(f"{_(_WORDS[remark.state])}: {remark.text}")
            if remark.hint:
                console.say(_("  hint: {hint}").format(hint=remark.hint))
        if step.name == "model" and inspection.names_hub_model:
            said = _("f downloads {repo_id} from the Hub; it says how much first")
            console.say(said.format(repo_id=self._answers.text("load_from")))
        elif step.name == "model" and inspection.model and inspection.model.ok:
            console.say(_("OK: this model can be trained"))
        elif step.name == "data" and self._look is not None:
            console.say("\n".join(self._look.lines(_WIDTH)))
            for sample in self._look.samples[:1]:
                show_view(sample, has_model=self._look.has_model, tokens=False)
        elif step.name == "hardware":
            console.say(self._inspector.hardware.sentence())
            if inspection.needs:
                said = _("memory: about {memory:.2f} of {usable:.2f} GiB on each device, estimated")
                memory, usable = inspection.needs.memory.total, inspection.needs.usable
                console.say(said.format(memory=memory, usable=usable))

    def _do(self, step: Step, fields: list[Field], said: str) -> None:
        """What was typed at a step's prompt."""
        if said == "f":
            self._mend()
        elif said == "s" and step.name == "review":
            self._save()
        elif said == "t" and step.name == "review":
            self._time()
        elif said == "p" and step.name == "training":
            self._ask_for_preset()
        elif said.isdigit() and 1 <= int(said) <= len(fields):
            self._ask(fields[int(said) - 1])
        else:
            console.say(_("{said!r} is not one of them").format(said=said))

    def _ask(self, field: Field) -> None:
        """Ask until the answer is right by itself, or is left as it was."""
        unit = _(" Unit: {unit}.").format(unit=_(field.unit)) if field.unit else ""
        console.say(f"{field.flag}: {field.describe()}{unit}")
        if field.choices:
            console.say("  ".join(f"{number}. {choice}" for number, choice in enumerate(field.choices, start=1)))
        while said := _input(self._question(field)):
            text = field.choices[int(said) - 1] if field.choices and _is_place(said, len(field.choices)) else said
            before = self._answers.copy()
            self._answers.set(field.key, text)
            error = self._answers.error(field.key)
            if error is None:
                break
            console.show_error(error)
            self._answers = before
        self._keep()

    def _question(self, field: Field) -> str:
        answer = self._answers.text(field.key) or _("none")
        return _("{flag} (Enter keeps {answer}): ").format(flag=field.flag, answer=answer)

    def _ask_for_model(self) -> None:
        models = find_models(self._answers.valid_config().work_dir)[:_MAX_MODELS]
        for number, candidate in enumerate(models, start=1):
            console.say(f"{number}. {candidate.path} ({candidate.origin})")
        number_too = _(", or a number of the list") if models else ""
        console.say(_("--load-from: the model directory") + number_too)
        if said := _input("--load-from: "):
            chosen = str(models[int(said) - 1].path) if _is_place(said, len(models)) else said
            self._answers.set("load_from", chosen)
            self._keep()

    def _ask_for_preset(self) -> None:
        for number, preset in enumerate(PRESETS, start=1):
            console.say(f"{number}. {_(preset.name)}: {_(preset.help)}")
        if _is_place(said := _input(_("preset: ")), len(PRESETS)):
            apply_preset(self._answers, PRESETS[int(said) - 1].name)
            self._keep()

    def _mend(self) -> None:
        inspection = self._inspect()
        if inspection.names_hub_model:
            path = download_plainly(self._answers.text("load_from"), _input)
            if path is None:
                return
            self._answers.set("load_from", str(path), "fix")
        elif inspection.model and inspection.model.suggestion:
            self._answers.set("load_from", str(inspection.model.suggestion), "fix")
        elif inspection.fit:
            self._answers.apply(inspection.fit.changes)
        else:
            console.say(_("nothing here can be mended by itself"))
            return
        self._keep()

    def _time(self) -> None:
        """Time a few steps of what would be launched; Ctrl+C ends that alone."""
        hindrance = self._inspect().first_hindrance()
        if hindrance is not None:
            console.say(_("not yet: {reason}").format(reason=hindrance.text))
            return
        said = _("step {step} of {steps}; Ctrl+C ends it")

        def tell(step: int) -> None:
            console.say(said.format(step=step, steps=NUM_STEPS + 1))

        plan = self._answers.plan(self._inspector.template)
        with StopSignals(is_detached=False) as signals:
            try:
                timing = time_steps(plan, NUM_STEPS, on_step=tell, is_cancelled=lambda: bool(signals.received))
            except XTunerError as error:
                console.say(_("could not be timed: {reason}").format(reason=error.message))
                return
        console.say(f"{_('duration')}: {words_of_timing(timing)}")

    def _save(self) -> None:
        names = (f"sft{'' if number == 1 else f'-{number}'}.yaml" for number in count(1))
        path = next(path for name in names if not (path := Path(name)).exists())
        inspection = self._inspect()
        command = command_line(inspection, self._inspector.template.nproc_per_node)
        try:
            atomic_write(path, config_yaml(inspection.plan.config, command))
        except OSError as error:
            console.say(_("{path} cannot be written: {reason}").format(path=path, reason=error.strerror))
        else:
            console.say(_("written: {path}").format(path=path))

    def _keep(self) -> None:
        try:
            keep(self._answers)
        except XTunerError as error:
            console.warn(error.message)

    def _inspect(self) -> Inspection:
        """All checks, the look at the data among them where it is another one than the last time."""
        inspection = self._inspector.inspect(self._answers)
        config = inspection.plan.config
        if not config.data_specs or inspection.state("data") == "error":
            self._look = self._looked_at = None
            return inspection
        is_model_good = inspection.model is not None and inspection.model.ok
        request = LookRequest(config, config.tokenizer_path or (config.load_from if is_model_good else None))
        if self._looked_at is None or self._looked_at.key() != request.key():
            self._looked_at = request
            look_at(request, self._take_look, lambda: False)
        return with_look(inspection, self._look)

    def _take_look(self, look: DataLook) -> None:
        self._look = look


def _is_place(said: str, number: int) -> bool:
    return said.isdigit() and 1 <= int(said) <= number


def _input(prompt: str) -> str:
    """What was typed; q leaves."""
    said = input(visible(prompt)).strip()
    if said == "q":
        raise _Left
    return said

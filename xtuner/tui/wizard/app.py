"""The screen of the guided launch: keys and messages meet here; judging is the worker's, drawing the widgets'."""

from itertools import count
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import DescendantFocus
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Static

from xtuner.language import N_, _
from xtuner.launch.plan import LaunchPlan
from xtuner.run.atomic import atomic_write
from xtuner.run.text import visible
from xtuner.tui.wizard.answers import Answers, config_yaml, keep
from xtuner.tui.wizard.candidates import Candidate
from xtuner.tui.wizard.data_look import DataLook, LookRequest
from xtuner.tui.wizard.download_screen import DownloadScreen
from xtuner.tui.wizard.download_words import offer_words
from xtuner.tui.wizard.field_row import FieldRow
from xtuner.tui.wizard.inspection import Inspection, Inspector, with_look
from xtuner.tui.wizard.key_hints import KeyHints
from xtuner.tui.wizard.model_download import ModelDownload, Told
from xtuner.tui.wizard.panels import about, command_text, panel
from xtuner.tui.wizard.quit_screen import QuitScreen
from xtuner.tui.wizard.rail import Rail
from xtuner.tui.wizard.review import command_line, review_lines
from xtuner.tui.wizard.step_pane import StepPane
from xtuner.tui.wizard.step_timer import StepTimer, Timed
from xtuner.tui.wizard.steps import STEPS, StepName, apply_preset
from xtuner.tui.wizard.worker import Crashed, Inspected, Looked, Worker

_TYPING_PAUSE_S = 0.3  # after which what was typed is judged
_STEPS = {step.name: step for step in STEPS}


def run_wizard(answers: Answers, inspector: Inspector) -> LaunchPlan | None:
    """Ask until the user launches or leaves; the caller has checked that there is a terminal.

    Returns:
        What to launch; None when the user left.
    """
    app = WizardApp(answers, inspector)
    plan = app.run()
    if app.crash is not None:
        raise app.crash
    return plan


class WizardApp(App[LaunchPlan | None]):
    """Six steps in any order."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]]] = [(0, "-narrow"), (120, "-wide")]  # type: ignore[misc]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", N_("Next"), priority=True),
        Binding("escape", "back", N_("Back")),
        *(
            Binding(f"f{number}", f"go('{step.name}')", step.title, show=False, priority=True)
            for number, step in enumerate(STEPS, start=1)
        ),
        Binding("pageup", "scroll_panel(-1)", show=False, priority=True),
        Binding("pagedown", "scroll_panel(1)", show=False, priority=True),
        Binding("ctrl+r", "mend", N_("Fix"), priority=True),
        Binding("ctrl+y", "copy", N_("Copy"), priority=True),
        Binding("ctrl+s", "save", N_("Save YAML"), priority=True),
        Binding("ctrl+t", "time", N_("Time"), show=False, priority=True),
        Binding("ctrl+g", "launch", N_("Launch"), priority=True),
        Binding("ctrl+c,ctrl+q", "leave", N_("Quit"), priority=True, key_display="^c"),
    ]

    def __init__(self, answers: Answers, inspector: Inspector) -> None:
        super().__init__()
        self.crash: Exception | None = None
        self._answers = answers
        self._begun_with = answers.copy()
        self._inspector = inspector
        self._inspection: Inspection | None = None
        self._inspected = Answers()  # the answers that `_inspection` is about
        self._look: DataLook | None = None
        self._candidates: list[Candidate] = []
        self._visited: list[StepName] = []
        self._panes: dict[StepName, StepPane] = {}
        self._typing: Timer | None = None
        self._launches = False  # asked for, while answers are still judged
        self._worker = Worker(inspector, self.post_message)
        self._step_timer = StepTimer(self.post_message)
        self._download = ModelDownload(self.post_message)
        # Held, not queried: messages arrive while a question lies above.
        self._rail = Rail()
        self._switcher = ContentSwitcher(id="steps")
        self._about = Static("", id="about", markup=False)
        self._command = Static("", id="command", markup=False)

    def compose(self) -> ComposeResult:
        """Rail, step, help on the question, command line, keys."""
        yield self._rail
        with Vertical():
            yield self._switcher
            yield self._about
            yield self._command
        yield KeyHints()

    async def on_mount(self) -> None:
        """Begin with the first step, and with judging what is answered already."""
        await self.action_go("model")
        self._worker.inspect(self._answers)

    def on_unmount(self) -> None:
        """Nothing outlives the screen."""
        self._worker.stop()
        self._step_timer.stop()
        self._download.stop()

    # What threads tell.

    def on_inspected(self, message: Inspected) -> None:
        """Show what was found, unless more was typed meanwhile."""
        if message.answers != self._answers:
            return
        self._inspection, self._inspected = message.inspection, message.answers
        self._candidates = message.candidates
        if message.failure is not None:
            self.notify(visible(message.failure.message), severity="warning", markup=False)
        if self._worker.look(self._look_request(message.inspection)):
            self._look = None
        self._show()
        if self._launches:
            self._launches = False
            self.action_launch()

    def on_looked(self, message: Looked) -> None:
        """Show what is known of the data."""
        if (
            self._inspection
            and (wanted := self._look_request(self._inspection))
            and wanted.key() == message.request.key()
        ):
            self._look = message.look
            self._show()

    def on_timed(self, _message: Timed) -> None:
        """Show how the timing goes, or what came of it."""
        self._show()

    def on_told(self, message: Told) -> None:
        """Show how the download goes; its end is an answer."""
        if not self._download.take(message):
            return
        state, screen = self._download.state, self.screen
        if state is not None and state.stage == "done":
            self._download.forget()
            if isinstance(screen, DownloadScreen):
                screen.dismiss(None)
            self._take_model(state.answer, state.model_dir)
        elif isinstance(screen, DownloadScreen):
            screen.show()
        else:
            if state is not None and state.stage == "failed" and state.error is not None:
                self.notify(visible(state.error.message), severity="error", markup=False)
            self._show()

    def on_crashed(self, message: Crashed) -> None:
        """Leave; `run_wizard` raises it."""
        self.crash = message.error
        self.exit(None)

    # What widgets tell.

    def on_field_row_edited(self, message: FieldRow.Edited) -> None:
        """Take the answer; judge it by itself now, and with all others when the typing pauses."""
        self._answers.set(message.key, message.text)
        self._update_panes(message.key)
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(_TYPING_PAUSE_S, lambda: self._worker.inspect(self._answers))

    def on_step_pane_preset_chosen(self, message: StepPane.PresetChosen) -> None:
        """Answer as the preset does."""
        apply_preset(self._answers, message.name)
        self._changed()

    def on_step_pane_model_chosen(self, message: StepPane.ModelChosen) -> None:
        """Take a model of the list."""
        self._answers.set("load_from", str(message.candidate.path), "detected")
        self._changed()

    async def on_rail_chosen(self, message: Rail.Chosen) -> None:
        """Go where the mouse pointed."""
        await self.action_go(message.step)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Say what the question means."""
        row = next((node for node in event.widget.ancestors_with_self if isinstance(node, FieldRow)), None)
        self._about.update(about(row.field) if row else "")

    def on_resize(self) -> None:
        """Lay the panel out anew."""
        self.call_after_refresh(self._show)

    # Keys.

    async def action_go(self, step: StepName) -> None:
        """Show `step`."""
        if len(self.screen_stack) > 1:
            return
        if step in self._visited:
            self._visited.remove(step)
        self._visited.append(step)
        if step not in self._panes:
            self._panes[step] = StepPane(_STEPS[step], self._answers)
            await self._switcher.add_content(self._panes[step])
        self._switcher.current = step
        self._rail.current = step
        self._about.update("")
        self._panes[step].take_keys()
        self.call_after_refresh(self._show)

    async def action_next(self) -> None:
        """The step after this one."""
        names = [step.name for step in STEPS]
        await self.action_go(names[min(names.index(self._current) + 1, len(names) - 1)])

    async def action_back(self) -> None:
        """The step that was looked at before."""
        if len(self._visited) > 1:
            self._visited.pop()
            await self.action_go(self._visited[-1])

    def action_scroll_panel(self, direction: int) -> None:
        """Scroll what stands beside the questions, wherever the keys are."""
        self._panes[self._current].scroll_panel(direction)

    def action_mend(self) -> None:
        """Take the model directory that must be meant, download it, or take the changes that let the run fit."""
        inspection = self._inspection
        if len(self.screen_stack) > 1:
            return
        is_named = inspection and inspection.names_hub_model and self._inspected == self._answers
        if is_named or (self._current == "model" and self._download.state is not None):
            self._show_download()
            return
        if inspection and inspection.model and inspection.model.suggestion:
            self._answers.set("load_from", str(inspection.model.suggestion), "fix")
        elif inspection and inspection.fit:
            self._answers.apply(inspection.fit.changes)
        else:
            self.notify(_("nothing here that one key can mend"))
            return
        self._changed()

    def action_copy(self) -> None:
        """Copy the command line, by OSC 52: over SSH too."""
        if self._inspection is not None:
            self.copy_to_clipboard(self._command_line(self._inspection))
            self.notify(_("the command line was copied"))

    def action_save(self) -> None:
        """Write the options to a file of the working directory."""
        if self._inspection is None:
            return
        names = (f"sft{'' if number == 1 else f'-{number}'}.yaml" for number in count(1))
        path = next(path for name in names if not (path := Path(name)).exists())
        try:
            atomic_write(path, config_yaml(self._inspection.plan.config, self._command_line(self._inspection)))
        except OSError as error:
            said = _("{path} cannot be written: {reason}").format(path=path, reason=error.strerror)
            self.notify(visible(said), severity="error", markup=False)
            return
        self.notify(_("written: {path}; xtuner sft --config {path} does the same").format(path=path))

    def action_launch(self) -> None:
        """Leave with the plan; where something is in the way, go there."""
        if self._inspection is None or self._inspected != self._answers:
            self._launches = True
            self._worker.inspect(self._answers)
            return
        hindrance = self._judged(self._inspection).first_hindrance()
        if hindrance is None:
            self._worker.stop()
            self.exit(self._answers.plan(self._inspection.plan))
            return
        self.notify(visible(hindrance.text), title=_("not yet"), severity="error", markup=False)
        self.run_worker(self.action_go(hindrance.step), exclusive=True)

    def action_time(self) -> None:
        """Time a few steps of what would be launched, or end that."""
        if self._step_timer.is_running:
            self._step_timer.cancel()
        elif self._inspection is not None and self._inspected == self._answers:
            hindrance = self._judged(self._inspection).first_hindrance()
            if hindrance is not None:
                self.notify(visible(hindrance.text), title=_("not yet"), severity="error", markup=False)
                return
            self._step_timer.start(self._inspection.plan)
        self._show()

    def action_leave(self) -> None:
        """Ask first where something was answered."""
        if isinstance(self.screen, DownloadScreen):
            self.screen.action_leave()
        elif isinstance(self.screen, QuitScreen):  # our key comes before those of a screen
            self.screen.dismiss(True)
        elif self._answers == self._begun_with:
            self.exit(None)
        else:
            self.push_screen(QuitScreen(), self._leave_if)

    def _leave_if(self, leaves: bool | None) -> None:
        if leaves:
            keep(self._answers)
            self.exit(None)

    # How it is done.

    @property
    def _current(self) -> StepName:
        return self._visited[-1]

    def _show_download(self) -> None:
        answer = self._answers.text("load_from")
        if self._download.state is None:
            self._download.begin(answer)
        self.push_screen(DownloadScreen(self._download), lambda path: self._take_model(answer, path))

    def _take_model(self, answer: str, path: Path | None) -> None:
        """Answer with what was downloaded, unless something else than `answer` was typed meanwhile."""
        if path is not None and self._answers.text("load_from") == answer:
            self._answers.set("load_from", str(path), "fix")
        elif path is not None:
            self.notify(visible(_("downloaded: {path}").format(path=path)), markup=False)
        self._changed()

    def _changed(self) -> None:
        self._update_panes()
        self._worker.inspect(self._answers)

    def _update_panes(self, typed: str | None = None) -> None:
        for pane in self._panes.values():
            pane.update(self._answers, typed)

    def _judged(self, inspection: Inspection) -> Inspection:
        return with_look(inspection, self._look)

    def _look_request(self, inspection: Inspection) -> LookRequest | None:
        config = inspection.plan.config
        if not config.data_specs or inspection.state("data") == "error":
            return None
        has_model = inspection.model is not None and inspection.model.ok
        return LookRequest(config, config.tokenizer_path or (config.load_from if has_model else None))

    def _show(self) -> None:
        """Everything that follows from what was found."""
        if self._inspection is None:
            return
        inspection = self._judged(self._inspection)
        self._rail.states = {step.name: inspection.state(step.name) for step in STEPS}
        self._command.update(command_text(self._command_line(inspection), inspection.plan.config))
        pane, hardware = self._panes[self._current], self._inspector.hardware
        if self._current == "review":
            duration = self._step_timer.words(inspection.plan)
            lines = review_lines(self._answers, inspection, self._look, hardware, duration=duration)
            pane.show_panel(Text("\n".join(map(visible, [*lines, "", self._command_line(inspection)]))))
        else:
            text = panel(self._current, inspection, self._look, hardware, pane.panel_width)
            if self._current == "model" and (inspection.names_hub_model or self._download.state is not None):
                offer = offer_words(self._download.state, self._answers.text("load_from"))
                text.append(f"{visible(offer)}\n", "bold")
            pane.show_panel(text)
        if self._current == "model":
            own = inspection.model.candidates if inspection.model else ()
            meant = [Candidate(path, _("in the directory that is answered")) for path in own]
            pane.show_candidates([*meant, *self._candidates])

    def _command_line(self, inspection: Inspection) -> str:
        return command_line(inspection, self._inspector.template.nproc_per_node)

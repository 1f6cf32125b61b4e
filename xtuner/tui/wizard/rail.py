"""The steps and how each stands: at the left, or on one line where the terminal is narrow."""

from typing import ClassVar

from rich.text import Text
from textual.events import Click
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from xtuner.language import _
from xtuner.tui.wizard.inspection import State
from xtuner.tui.wizard.steps import STEPS, StepName

SIGNS: dict[State, str] = {"ok": "✓", "warning": "!", "error": "✗", "open": "·"}


class Rail(Widget):
    """Every step with its key, its sign and its title."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rail--current", "rail--ok", "rail--warning", "rail--error", "rail--open"}

    current: reactive[StepName] = reactive[StepName]("model")
    states: reactive[dict[StepName, State]] = reactive(dict)

    class Chosen(Message):
        """A step was clicked."""

        def __init__(self, step: StepName) -> None:
            super().__init__()
            self.step = step

    def render(self) -> Text:
        """A line a step, or all of them on one."""
        is_line = self.size.height < len(STEPS)
        rail = Text(no_wrap=True, overflow="ellipsis")
        for number, step in enumerate(STEPS, start=1):
            state = self.states.get(step.name, "open")
            title = _(step.title).split()[0] if is_line else _(step.title)
            look = self.get_component_rich_style(f"rail--{state}", partial=True)
            rail.append(f"F{number}{'' if is_line else ' '}{SIGNS[state]}", look)
            is_current = step.name == self.current
            mark = "▸" if is_current else " "
            rail.append(
                f"{mark}{title}", self.get_component_rich_style("rail--current", partial=True) if is_current else ""
            )
            rail.append("  " if is_line else "\n")
        return rail

    def on_click(self, event: Click) -> None:
        """Go to the step on that line."""
        if self.size.height >= len(STEPS) and event.y - 1 in range(len(STEPS)):
            self.post_message(self.Chosen(STEPS[event.y - 1].name))

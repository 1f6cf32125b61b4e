"""The way from `xtuner sft` to the guided launch and back: when it opens, and with which answers filled in."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from xtuner.cli import console
from xtuner.errors import UsageError
from xtuner.language import _, speak
from xtuner.launch.plan import LaunchPlan
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import given_options
from xtuner.v1.config.required import missing_flags, require_flags


@dataclass(frozen=True)
class Asking:
    """How the user wants to be asked.

    Attributes:
        wizard: even though nothing is missing.
        plain: in numbered lines of text, and not on a screen.
        goes_on: with the answers of the last time, even though nothing is missing.
        never: not at all.
        language: of the questions, one of `LANGUAGES`.
    """

    wizard: bool = False
    plain: bool = False
    goes_on: bool = False
    never: bool = False
    language: str = "en"

    @property
    def is_wanted(self) -> bool:
        """Whether a flag asks for questions."""
        return self.wizard or self.goes_on


def wants_questions(config: TrainerConfig, asking: Asking) -> bool:
    """Whether to ask before launching.

    Raises:
        UsageError: something is missing, or questions are wanted, and nobody can be asked.
    """
    if asking.never:
        require_flags(config)
        return False
    if not asking.is_wanted and not missing_flags(config):
        return False
    # Both: with one of them in a pipe, a screen would wait for keys or draw for nobody.
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        require_flags(config, hint="on a terminal, xtuner sft asks for what is missing")
        raise UsageError("--wizard and --continue need a terminal", hint="leave them out, and pass flags")
    return True


def ask(plan: LaunchPlan, asking: Asking, given: Mapping[str, Any]) -> LaunchPlan | None:
    """Ask for what is not given, and let the user change what is; None when they leave.

    Args:
        plan: what was given, with defaults for the rest.
        asking: how.
        given: the parameters of the command line, None where a flag was not there.
    """
    from xtuner.launch.devices import find_hardware
    from xtuner.tui.wizard.answers import Answers, kept_answers
    from xtuner.tui.wizard.inspection import Inspector

    speak(asking.language)
    answers = Answers.of_config(plan.config, given_options(given), given.get("nproc_per_node"))
    if asking.goes_on:
        answers = kept_answers().with_given(answers)
    hardware = find_hardware()
    inspector = Inspector(hardware, _template(plan, hardware.num_devices or 1))
    if asking.plain:
        from xtuner.cli.wizard_plain import ask_plainly

        chosen = ask_plainly(answers, inspector)
    else:
        from xtuner.tui.wizard.app import run_wizard

        chosen = run_wizard(answers, inspector)
    if chosen is None:
        console.say(_("nothing was launched; xtuner sft --continue goes on with your answers"))
    return chosen


def _template(plan: LaunchPlan, default_nproc: int) -> LaunchPlan:
    """What is not asked for, and the ranks without an answer."""
    return replace(plan, config=TrainerConfig(), nproc_per_node=default_nproc)

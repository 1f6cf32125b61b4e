"""`xtuner`: the command table, and the one place that turns an error into words and an exit code.

Commands load on use: `xtuner monitor` never pays for what `xtuner sft` needs.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from xtuner import __version__
from xtuner.cli import console
from xtuner.errors import XTunerError

# name -> (function `command` in this module of xtuner.cli, one line for `xtuner --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "sft": ("sft", "Fine-tune a model on chats."),
    "plan": ("plan", "Estimate memory and disk of a run."),
    "check-model": ("check_model", "Judge a model directory, and say the fix."),
    "download": ("download", "Download a model, and check it."),
    "preview": ("preview", "Show data as the model sees it, and report its health."),
    "cache": ("cache", "List or delete tokenised data."),
    "monitor": ("monitor", "Watch a run: charts, ranks, logs, alerts."),
    "attach": ("attach", "Come back to a run that goes on."),
    "stop": ("stop", "Let a run finish its step, save and leave."),
    "runs": ("runs", "List the runs of a work dir."),
    "export": ("export", "Make a model directory from a checkpoint."),
    "chat": ("chat", "Talk with a model."),
    "demo": ("demo", "The whole path on a tiny model, on a CPU."),
}


class _AsTyped:
    """Takes a value as it is typed.

    Typer 0.29 imports pydantic to look at a text or a flag: half of what `xtuner check-model` would cost.
    """

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


def _take_as_typed(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        descriptor = getattr(parameter, "type_descriptor", None)  # as Typer has it since 0.29
        if descriptor is not None and descriptor.annotation in (str, bool, list[str]) and parameter.nargs == 1:
            parameter.get_runtime_param = _AsTyped
    return parameters


class LightCommand(TyperCommand):
    """A command whose texts and flags are taken as they are typed."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return _take_as_typed(super().get_params(ctx))


class LazyGroup(TyperGroup):
    """A group that imports a command's module when that command is asked for."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return _take_as_typed(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command `cmd_name`: whole when it runs, name and one line for `xtuner --help` and completion."""
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if cmd_name not in sys.argv[1:3]:
            return _build(_placeholder, cmd_name, summary)
        return _build(import_module(f"xtuner.cli.{module}").command, cmd_name, None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base class, with the known commands there for the "did you mean"."""
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}
        return super().resolve_command(ctx, args)


def _placeholder() -> None:
    raise AssertionError("a placeholder is only listed, never run")


def _build(function: Callable[..., Any], name: str, help_text: str | None) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, cls=LightCommand, help=help_text)(function)
    return typer.main.get_command(app)


def _show_version(value: bool) -> None:
    if value:
        console.data(f"xtuner {__version__}")
        raise typer.Exit


_app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@_app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Fine-tune Hugging Face language models from a terminal."""


def run(arguments: list[str] | None = None) -> None:
    """Run `xtuner ARGUMENTS` and leave with the exit code of the design's table."""
    try:
        typer.main.get_command(_app)(args=arguments, prog_name="xtuner")
    except XTunerError as error:
        with suppress(OSError):  # the terminal is gone; the exit code still counts
            console.show_error(error)
        raise SystemExit(error.exit_code) from None

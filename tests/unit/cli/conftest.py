"""Commands run in this process."""

import sys
from typing import NamedTuple

import pytest

from xtuner.cli.app import run


class Done(NamedTuple):
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def xtuner(monkeypatch, capsys):
    """`xtuner(*arguments)` is the exit code, stdout and stderr of the command line."""

    def call(*arguments):
        arguments = [*map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["xtuner", *arguments])
        with pytest.raises(SystemExit) as left:
            run(arguments)
        return Done(left.value.code or 0, *capsys.readouterr())

    return call

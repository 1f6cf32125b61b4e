"""What the tests of downloads share."""

import sys

import pytest


@pytest.fixture
def download(monkeypatch, capsys):
    """`download(*arguments)` runs `xtuner download` in this process: exit code, stdout, stderr."""
    from xtuner.cli.app import run

    def call(*arguments):
        arguments = ["download", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["xtuner", *arguments])
        with pytest.raises(SystemExit) as left:
            run(arguments)
        return left.value.code or 0, *capsys.readouterr()

    return call

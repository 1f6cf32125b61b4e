"""Rooms stay small enough to read."""

import ast
from pathlib import Path

import xtuner

PACKAGE = Path(xtuner.__file__).parent


def test_no_file_is_longer_than_400_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lengths) > 50 and {path.name: n for path, n in lengths.items() if n >= 400} == {}


def test_the_training_loop_fits_on_a_screen():
    tree = ast.parse((PACKAGE / "v1" / "train" / "trainer.py").read_text(encoding="utf-8"))
    [fit] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "fit"]
    assert any(isinstance(node, ast.For) for node in ast.walk(fit)) and fit.end_lineno - fit.lineno < 60


def test_the_entry_folder_holds_the_entry_alone():
    """Run by path, that folder is first on `sys.path`: any other file would shadow a module."""
    folder = PACKAGE / "v1" / "train" / "cli"
    assert {path.name for path in folder.glob("*.py")} == {"__init__.py", "sft.py"}

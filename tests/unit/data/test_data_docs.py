"""`docs/data.md` tells the truth: its examples are rows, and its tables name every code and flag."""

import json
import re
from pathlib import Path
from typing import get_args

from xtuner.data.chat import Chat, Document
from xtuner.data.formats import detect_format, read_row
from xtuner.data.options import FORMATS, MaskPolicy, Overlong
from xtuner.data.problems import ERRORS, WARNINGS

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_example_is_a_row_of_the_format_it_stands_under() -> None:
    sections = re.split(r"^\*\*(\w+)\*\*:", DOCS, flags=re.MULTILINE)
    found = set()
    for name, text in zip(sections[1::2], sections[2::2], strict=True):
        for block in re.findall(r"```json\n(.*?)\n```", text, flags=re.DOTALL):
            value = json.loads(block)
            assert detect_format(value, "docs") == name
            assert isinstance(read_row(value, "auto", "docs"), Chat | Document)
            found.add(name)
    assert found == set(FORMATS)


def test_every_code_and_choice_is_described() -> None:
    assert {code for code in (*ERRORS, *WARNINGS) if f"`{code}`" not in DOCS} == set()
    assert {choice for choice in (*get_args(MaskPolicy), *get_args(Overlong)) if f"`{choice}`" not in DOCS} - {
        "all-assistant"
    } == set()


def test_the_picture_is_there() -> None:
    [picture] = re.findall(r"!\[[^\]]+\]\((images/[\w.]+)\)", DOCS)
    assert (Path(__file__).parents[3] / "docs" / picture).stat().st_size > 1000

"""The Chinese catalogue: complete, without leavings, compiled, and taken when the environment asks for it."""

import importlib.util
from collections import Counter
from pathlib import Path
from string import Formatter

import pytest

from xtuner.language import _, language_of, speak

_SPEC = importlib.util.spec_from_file_location("catalogue", Path(__file__).parents[2] / "tools" / "catalogue.py")
catalogue = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(catalogue)


@pytest.fixture(scope="module")
def entries():
    return catalogue.read_po(catalogue.PO)


@pytest.fixture
def chinese():
    speak("zh")
    yield
    speak("en")


def test_every_message_is_translated_and_nothing_else(entries):
    messages = catalogue.messages()
    missing = [message for message in messages if not entries.get(message)]
    unused = [message for message in entries if message and message not in messages]
    assert not missing and not unused, f"make catalogue, then translate {missing}; unused: {unused}"


def test_placeholders_are_those_of_the_message(entries):
    for message, said in entries.items():
        assert _placeholders(message) == _placeholders(said), message


def _placeholders(text):
    """Names with their format and conversion; a message may put them in another order."""
    return Counter(field[1:] for field in Formatter().parse(text) if field[1] is not None)


def test_placeholders_that_differ_are_seen():
    assert _placeholders("{a:,} of {b}") == _placeholders("{b} 中的 {a:,}")
    assert _placeholders("{a:,}") != _placeholders("{a}") != _placeholders("{c}")


def test_the_compiled_catalogue_is_that_of_the_source(entries):
    assert catalogue.PO.with_suffix(".mo").read_bytes() == catalogue.mo_bytes(entries), "run: make catalogue"


def test_the_compiled_catalogue_answers_with_every_entry(entries, chinese):
    assert {message: _(message) for message in entries if message} == {m: said for m, said in entries.items() if m}
    assert _("a message that nobody has translated") == "a message that nobody has translated" and _("") == ""


def test_writing_the_source_again_changes_nothing(entries, tmp_path):
    catalogue.write_po(tmp_path / "again.po", entries)
    assert (tmp_path / "again.po").read_bytes() == catalogue.PO.read_bytes()


def test_english_is_what_stands_in_the_code():
    speak("en")
    assert _("Model") == "Model"


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN"}, "zh"),
        ({"LANGUAGE": "fr:zh_CN:en", "LC_ALL": "en_US"}, "zh"),
        ({"LANGUAGE": "en:zh", "LANG": "zh_CN"}, "en"),
    ],
)
def test_the_environment_chooses(environment, language):
    assert language_of(environment) == language

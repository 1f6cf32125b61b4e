"""Words that are remembered, and text that is cut at its blanks: the ids of the library, or none."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_tokenizers import BYTE_LEVEL, PIPELINES, _byte_level, _encode, _split, many
from tokenizers import Tokenizer

from xtuner.data import words
from xtuner.data.segments import segment_encoder
from xtuner.data.words import WordMemory, id_bytes

# What may stand between two blanks, and what a blank may stand beside.
_UNITS = (
    "word",
    "Köln,",
    "(however,",
    "it's",
    "'s",
    "12",
    "3.14",
    "你好",
    "e\u0301",
    "é",
    "!?",
    "\x1c",
    "\u00a0",
    "\u3000",
)
_BLANKS = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n", "\n ", "")
_MIXED = st.lists(st.tuples(st.sampled_from(_UNITS), st.sampled_from(_BLANKS)), max_size=12).map(
    lambda parts: "".join(unit + blank for unit, blank in parts)
)


def _memory(tokenizer: Tokenizer) -> WordMemory:
    encoder = segment_encoder(tokenizer)
    assert encoder is not None and encoder._words is not None
    return encoder._words


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Tokenizer, WordMemory]]:
    tokenizers = {kind: PIPELINES[kind]() for kind in BYTE_LEVEL}
    return {kind: (tokenizer, _memory(tokenizer)) for kind, tokenizer in tokenizers.items()}


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@many
@given(text=_MIXED)
@example("")
@example(" ")
@example("one two")
@example(" one \ntwo  three ")
def test_text_cut_at_blanks_has_the_ids_of_the_library(made, kind, text):
    tokenizer, memory = made[kind]
    assert memory.encode(text) in (None, id_bytes(_encode(tokenizer, text)))


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_control_text_is_cut_at_blanks_and_its_units_come_again(made, kind):
    _, memory = made[kind]
    memory.encode("Well, it's (however, it's) Köln, you see.")
    assert memory._cuts_at_blanks and {"it's", "(however,", "Köln,"} <= memory._units.keys()
    assert memory._ascii_finders is not memory._finders


@pytest.mark.parametrize(
    "pattern", [r"\p{L}+ \p{L}+|\s+|[^\s\p{L}]+", r"\p{L}+\s?|\s+|[^\s\p{L}]+", r"'s \p{L}+|\p{L}+|\s+|[^\s\p{L}]+"]
)
def test_where_a_word_reaches_across_a_blank_text_is_not_cut_there(pattern):
    tokenizer = _byte_level(_split(pattern))
    memory = _memory(tokenizer)
    text = "two words, Anna's three of them 's one"
    assert not memory._cuts_at_blanks and memory.encode(text) == id_bytes(_encode(tokenizer, text))


def test_control_a_cut_across_a_word_is_seen(monkeypatch):
    monkeypatch.setattr(words, "cuts_at_blanks", lambda _: True)
    tokenizer = _byte_level(_split(r"\p{L}+ \p{L}+|\s+|[^\s\p{L}]+"))
    text = "one of two words of five"
    assert _memory(tokenizer).encode(text) != id_bytes(_encode(tokenizer, text))


def test_the_memory_has_an_end(monkeypatch):
    monkeypatch.setattr(words, "_MAX_UNITS", 8)
    monkeypatch.setattr(words, "_MAX_WORDS", 8)
    tokenizer = PIPELINES["qwen"]()
    memory = _memory(tokenizer)
    for number in range(40):
        text = f"as {'abcdefghij'[number % 10]}x, y{'klmnop'[number % 6]} and {'z' * 30} so on"
        assert memory.encode(text) == id_bytes(_encode(tokenizer, text))
        assert len(memory._units) <= 8 and len(memory._ids) <= 8
    assert "z" * 30 not in memory._units


def test_a_pattern_that_python_itself_cannot_read_is_left_to_the_other_engine(monkeypatch):
    def translated(_: str) -> Any:
        return "(?P<broken"

    monkeypatch.setattr(words, "in_ascii", translated)
    memory = _memory(PIPELINES["qwen"]())
    assert memory._ascii_finders is memory._finders
    monkeypatch.setattr(words, "in_ascii", lambda _: r"[a-z]+|[^a-z]+")  # reads, and cuts otherwise
    memory = _memory(PIPELINES["qwen"]())
    assert memory._ascii_finders is memory._finders

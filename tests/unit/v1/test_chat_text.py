"""Text that comes token by token is the text of all tokens, and reasoning is told from the reply wherever it is cut."""

import itertools

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from xtuner.v1.chat.conversation import Conversation
from xtuner.v1.chat.text import Piece, ReasoningSplitter, TextStream, parted


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def _stream(tokenizer, ids):
    stream = TextStream(lambda part: tokenizer.decode(part, skip_special_tokens=False))
    return [stream.push(i) for i in ids], stream.finish()


@given(text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=40))
def test_bytes_become_whole_characters(byte_level, text):
    ids = byte_level.encode(text, add_special_tokens=False).ids
    pushed, rest = _stream(byte_level, ids)
    assert ("".join(pushed), rest) == (text, "") and "\ufffd" not in "".join(pushed)


def test_a_character_comes_with_its_last_token(byte_level):
    ids = byte_level.encode("a 你👍", add_special_tokens=False).ids
    pushed, _ = _stream(byte_level, ids)
    assert pushed == ["a", " ", "", "", "你", "", "", "", "👍"]


def test_a_character_without_its_end_is_not_shown(byte_level):
    ids = byte_level.encode("星 你", add_special_tokens=False).ids
    pushed, rest = _stream(byte_level, ids[:-1])
    assert "".join(pushed) + rest == "星 "
    pushed, rest = _stream(byte_level, [*ids[:-1], *ids[:3]])  # in the middle it is, as a mark, and nothing is lost
    assert "".join(pushed) + rest == "星 \ufffd星"


def test_bytes_that_never_become_a_character_are_not_waited_for(byte_level):
    [lead] = byte_level.encode("星", add_special_tokens=False).ids[:1]
    pushed, rest = _stream(byte_level, [lead] * 9 + byte_level.encode("a", add_special_tokens=False).ids)
    assert pushed == [*["", "", "", "\ufffd" * 4] * 2, "", "\ufffda"] and rest == ""


def test_blanks_of_sentencepiece_are_kept_but_for_the_first():
    """Its decoder drops the first blank of what it is given: decoding tokens alone would drop all of them."""
    vocab = {"▁The": 0, "▁sea": 1, "s": 2, "<0xE6>": 3, "<0x98>": 4, "<0x9F>": 5, "▁": 6, "<unk>": 7}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    ids = [0, 1, 2, 6, 3, 4, 5, 1]
    pushed, rest = _stream(tokenizer, ids)
    assert pushed == ["The", " sea", "s", " ", "", "", "星", " sea"] and rest == ""
    assert "".join(pushed) == tokenizer.decode(ids)
    assert [tokenizer.decode([i]) for i in ids[:2]] == ["The", "sea"]  # the control


def _split(text, cuts, *, is_open=False):
    splitter = ReasoningSplitter(is_open=is_open)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [piece for a, b in itertools.pairwise(edges) for piece in splitter.push(text[a:b])]
    pieces += splitter.finish()
    assert "".join(piece.text for piece in pieces) == text and all(piece.text for piece in pieces)
    return parted(pieces)


@pytest.mark.parametrize(
    ("text", "is_open", "reply", "reasoning"),
    [
        ("Hello <think>x</think>", False, "Hello <think>x</think>", ""),  # only at the beginning is it reasoning
        ("<think>a < b</think>\n\nYes", False, "Yes", "a < b"),
        ("\n<think>\n</think>\n\nYes </think>", False, "Yes </think>", ""),
        ("<think>never ends </thin", False, "", "never ends </thin"),
        ("so it is</think>Yes", True, "Yes", "so it is"),
        ("<thin ice", False, "<thin ice", ""),
        (" two", False, " two", ""),
        ("<", False, "<", ""),
        ("", False, "", ""),
        ("", True, "", ""),
    ],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=30))
def test_reasoning_is_the_same_wherever_text_is_cut(text, is_open, reply, reasoning, cuts):
    assert _split(text, cuts, is_open=is_open) == (reply, reasoning)


def test_pieces_come_at_once_and_no_part_of_a_tag_does():
    splitter = ReasoningSplitter(is_open=False)
    assert splitter.push(" <th") == []
    assert splitter.push("ink>So <") == [Piece(" <think>So ", True)]
    assert splitter.push("b> </think") == [Piece("<b> ", True)]
    assert splitter.push(">No") == [Piece("</think>", True), Piece("No", False)]
    assert splitter.push("<") == [Piece("<", False)]


def _conversation(num_turns):
    conversation = Conversation("Be brief.")
    for number in range(num_turns):
        conversation.ask(f"question {number}")
        conversation.answer(f"answer {number}", "because" if number == 0 else "")
    return conversation


def test_messages_are_those_of_a_chat_template():
    conversation = _conversation(2)
    assert [message["content"] for message in conversation.messages()] == [
        *("Be brief.", "question 0", "answer 0", "question 1", "answer 1")
    ]
    assert [message["role"] for message in conversation.messages()] == ["system", *["user", "assistant"] * 2]
    assert conversation.messages()[2]["reasoning_content"] == "because"
    assert "reasoning_content" not in conversation.messages()[4]
    assert conversation.undo().question == "question 1" and len(conversation.messages()) == 3
    conversation.reset()
    assert conversation.messages() == [{"role": "system", "content": "Be brief."}] and conversation.undo() is None


def test_the_oldest_turns_are_dropped_and_the_last_one_never():
    conversation = _conversation(4)
    assert conversation.fit(len, 9) == 0
    assert conversation.fit(len, 6) == 2
    assert [turn.question for turn in conversation.turns] == ["question 2", "question 3"]
    assert conversation.fit(len, 0) == 1 and conversation.turns[0].question == "question 3"
    assert conversation.messages()[0]["role"] == "system"

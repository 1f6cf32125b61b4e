"""What is trained: exactly what the assistant says plus its end of turn, whatever the template does."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.data.chat import Chat, read_chat
from xtuner.data.jsonl import Row
from xtuner.data.mask import mask_chat
from xtuner.data.prepare import prepare_data
from xtuner.data.template import ChatTemplate, load_chat_template, load_tokenizer
from xtuner.data.tokenize import ChatTokenizer
from xtuner.errors import DataError, ModelError

# Shows an empty thinking block before the last reply only, as the Qwen3 family does.
STRIPS_THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_LIKE = (
    "{{ '<|im_start|>' }}{% for message in messages %}[{{ message.role }}]\n\n{{ message.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]\n\n{% endif %}"
)
UNPROVABLE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
REFUSES = "{{ raise_exception('roles must alternate') }}"


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return directory


def _trained(tokenizer_dir: Path, template: str, messages: list[dict]) -> list[str]:
    """The trained text of each sequence; consecutive trained pieces are joined by `|`."""
    raw = load_tokenizer(tokenizer_dir)
    sequences = ChatTokenizer(raw).tokenize(mask_chat(Chat("test:1", messages), ChatTemplate(template, {})))
    texts = []
    for sequence in sequences:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], sequence.is_trained.astype(int), [0]])))
        pieces = [sequence.ids[begin:end].tolist() for begin, end in edges.reshape(-1, 2)]
        texts.append("|".join(raw.decode(piece, skip_special_tokens=False) for piece in pieces))
    return texts


def _chat(*contents: str, system: str | None = None) -> list[dict]:
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [
        {"role": "user" if i % 2 == 0 else "assistant", "content": content} for i, content in enumerate(contents)
    ]


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", [tiny_models.CHATML, LLAMA_LIKE], ids=["chatml", "llama-like"])
def test_replies_and_their_end_of_turn_are_trained(tokenizer_dir, template, system):
    assert _trained(tokenizer_dir, template, _chat("Hi", "Hello there.", system=system)) == ["Hello there.<|im_end|>"]
    messages = _chat("Hi", "One.", "And?", "Two, 你好 😀.", "Bye", system=system)
    assert _trained(tokenizer_dir, template, messages) == ["One.<|im_end|>|Two, 你好 😀.<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_trains_each_reply_as_it_is_given(tokenizer_dir):
    trained = _trained(tokenizer_dir, STRIPS_THINKING, _chat("Hi", "One.", "And?", "Two."))
    assert trained == ["<think>\n\n</think>\n\nOne.<|im_end|>", "<think>\n\n</think>\n\nTwo.<|im_end|>"]


def test_a_reply_that_begins_inside_a_token_is_cut_where_inference_cuts(tokenizer_dir):
    raw = load_tokenizer(tokenizer_dir)
    tokenizer = ChatTokenizer(raw)
    # Byte-level pre-tokenisation merges blanks with what follows: "assistant " + "x" would become "assistant", " x".
    template = ChatTemplate(
        "{% for m in messages %}{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}",
        {},
    )
    chat = Chat("test:1", _chat("Hi", "water boils"))
    [sequence] = tokenizer.tokenize(mask_chat(chat, template))
    prompt = raw.encode("user Hi<|im_end|>assistant ", add_special_tokens=False).ids
    assert sequence.ids[: len(prompt)].tolist() == prompt and not sequence.is_trained[: len(prompt)].any()
    assert sequence.is_trained[len(prompt) :].all() and tokenizer.num_split_at_reply == 1


def test_what_cannot_be_proved_is_an_error_with_both_renderings():
    with pytest.raises(DataError, match=r"d\.jsonl:7: message 1: .*cannot be proved") as caught:
        mask_chat(Chat("d.jsonl:7", _chat("Hi", "Hello")), ChatTemplate(UNPROVABLE, {}))
    assert "<|im_start|>" in caught.value.message and "assistant: Hello" in caught.value.message


def test_the_templates_own_complaint_is_shown_with_the_row():
    with pytest.raises(DataError, match=r"d\.jsonl:7: .*roles must alternate"):
        mask_chat(Chat("d.jsonl:7", _chat("Hi", "Hello")), ChatTemplate(REFUSES, {}))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<|" not in text)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=6))
def test_any_chat_trains_its_replies_to_the_byte(contents):
    tokenizer_dir = _property_tokenizer()
    expected = [content + "<|im_end|>" for content in contents[1::2]]
    assert "".join(_trained(tokenizer_dir, tiny_models.CHATML, _chat(*contents))).replace("|", "") == "".join(
        expected
    ).replace("|", "")


_CACHE: list[Path] = []


def _property_tokenizer() -> Path:
    if not _CACHE:
        import tempfile

        _CACHE.append(Path(tempfile.mkdtemp()))
        tiny_models.write_tokenizer(_CACHE[0])
    return _CACHE[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "no `messages`"),
        ({"text": "x"}, "its keys: text"),
        ([], "an empty list"),
        ("hi", "is a str"),
        ([1], "message 0 is a int"),
        ([{"content": "x"}], "no `role`"),
        ([{"role": "asistant", "content": "x"}], "'asistant'"),
        ([{"role": "user"}], "no `content`"),
        ([{"role": "user", "content": None}], "is a NoneType"),
    ],
)
def test_rows_that_are_no_chat(value, words):
    with pytest.raises(DataError) as caught:
        read_chat(Row(Path("d.jsonl"), 3, value))
    assert caught.value.message.startswith("d.jsonl:3") and words in caught.value.message and caught.value.hint


def test_counts_show_what_was_cut_and_left_out(tokenizer_dir, tmp_path):
    import json

    rows = [_chat("a", "b"), _chat("only a question"), _chat("q " * 300, "late"), _chat("q", "word " * 300)]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare_data(data, tokenizer_dir, row_limit=100, pack_length=128, min_packs=1)
    counts = prepared.counts
    assert (counts.rows, counts.sequences, counts.without_reply, counts.without_target) == (4, 2, 1, 1)
    assert counts.truncated == 2 and counts.tokens_cut > 100
    assert any("left out: no assistant" in line for line in counts.report(100))
    assert counts.trained_tokens == sum(prepared.num_targets(pack) for pack in range(len(prepared.packs)))


def test_a_directory_without_template_or_tokenizer(tmp_path):
    with pytest.raises(ModelError, match="no chat template"):
        load_chat_template(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)

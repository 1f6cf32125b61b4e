"""Tokens of masked text: the way by segments and the way by offsets, for every kind of tokenizer, agree."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from chat_templates import SHAPES, Messages, Shape
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from xtuner.data.chat import build_chat
from xtuner.data.mask import MaskedText, mask_chat
from xtuner.data.problems import RowError
from xtuner.data.rows import PipelineSpec, RowPipeline
from xtuner.data.segments import segment_encoder
from xtuner.data.template import load_chat_template, load_tokenizer
from xtuner.data.tokenize import SequenceTokenizer, TokenSequence
from xtuner.data.words import id_bytes
from xtuner.errors import ModelError

_TEXTS = [
    "The user asks and the assistant answers in a few sentences, then waits for the next question.",
    "Water boils at 100 degrees Celsius at sea level; on a mountain it boils at less. You're welcome!\n\n",
    "What is 12345 plus 99?\n\nIt's 12444, isn't it?\n  - 你好 世界 Привет мир Köln\r\n\r\n    indented\t\ttabs",
]
# Llama 3's pattern, which is Qwen's but for the digits.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _byte_level(*steps: pre_tokenizers.PreTokenizer, nfc: bool = False, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=not steps)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def _sentence_piece(*, is_gemma: bool) -> Tokenizer:
    """Gemma's: blanks replaced by the normalizer; Llama 2's: one more blank before the first word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if is_gemma:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence(_SPACES)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([*_SPACES, decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", *_BYTES], show_progress=False)
    tokenizer.train_from_iterator([text for line in _TEXTS for text in line.split("\n")], trainer)
    return _without_added(tokenizer)


def _unigram() -> Tokenizer:
    words = (
        {f"▁{word}" for line in _TEXTS for word in line.split()} | {char for line in _TEXTS for char in line} | {"▁"}
    )
    scores = [("<unk>", 0.0), *((byte, -20.0) for byte in _BYTES), *((word, -5.0) for word in sorted(words))]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([*_SPACES, decoders.Strip(" ", 1, 0)])
    return tokenizer


def _without_added(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": []}))


PIPELINES = {
    "gpt2": lambda: _byte_level(),
    "qwen": lambda: _byte_level(_split(_WORDS.replace("DIGITS", "")), nfc=True),
    "llama3": lambda: _byte_level(_split(_WORDS.replace("DIGITS", "{1,3}")), ignore_merges=True),
    "deepseek": lambda: _byte_level(
        _split(r"\p{N}{1,3}"), _split(r"[一-龥]+"), _split(r"[^\r\n\p{L}\p{N}]?\p{L}+|[^\s\p{L}]+[\r\n]*|\s+(?!\S)|\s+")
    ),
    "gemma": lambda: _sentence_piece(is_gemma=True),
    "metaspace": lambda: _sentence_piece(is_gemma=False),
    "unigram": _unigram,
}


@lru_cache
def _trained_json(pipeline: str) -> str:
    return PIPELINES[pipeline]().to_str()


def write_directory(directory: Path, shape: Shape, pipeline: str = "") -> Path:
    """A model directory's files for text: the tokenizer of `shape` (or another pipeline with its special tokens)."""
    tokenizer = Tokenizer.from_str(_trained_json(pipeline or shape.pipeline))
    names = dict.fromkeys(name for name in (shape.bos, shape.eos, shape.pad, shape.end, *shape.special.split()) if name)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, rstrip=shape.strips_right) for name in names])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in shape.words])
    if shape.adds_bos:
        ids = [(shape.bos, tokenizer.token_to_id(shape.bos))]
        bos = processors.TemplateProcessing(single=f"{shape.bos} $A", special_tokens=ids)
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": shape.bos, "eos_token": shape.eos or shape.end, "pad_token": shape.pad}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(shape.source)
    return directory


BYTE_LEVEL = ["gpt2", "qwen", "llama3", "deepseek"]
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Pipelines = Callable[..., RowPipeline]


@pytest.fixture(scope="module")
def pipeline_of(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    @lru_cache
    def make(shape: Shape, pipeline: str = "") -> RowPipeline:
        return RowPipeline(PipelineSpec(write_directory(tmp_path_factory.mktemp("model"), shape, pipeline)))

    return make


@lru_cache
def _without_segments(pipeline: RowPipeline) -> SequenceTokenizer:
    tokenizer = SequenceTokenizer(pipeline.files.tokenizer, pipeline.files.eos_id)
    tokenizer._segments = None
    return tokenizer


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _masked(pipeline: RowPipeline, messages: Messages) -> list[MaskedText]:
    return mask_chat(build_chat(messages, None, "d.jsonl:1"), pipeline.template)


def _trained(tokenizer: Tokenizer, sequence: TokenSequence) -> list[tuple[list[int], str]]:
    """For each run of trained tokens: the tokens before it, and its text."""
    ids, runs, begin = sequence.ids.tolist(), [], 0
    for is_trained, group in groupby(sequence.is_trained.tolist()):
        end = begin + len(list(group))
        if is_trained:
            before, through = (tokenizer.decode(ids[:cut], skip_special_tokens=False) for cut in (begin, end))
            runs.append((ids[:begin], through[len(before) :]))
        begin = end
    return runs


# What trips tokenizers: every kind of blank and line end, controls, letters of many scripts, marks that combine,
# digits that are none to ASCII, contractions in other cases, signs of several code points.
_PIECES = (
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\x0b\x0c",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2028",
        "\u3000",
        " " * 40,
        "\n" * 9,
    ),
    *("\0", "\x7f", "\ufeff", "\u200d", "a", "The", " user", "'S", "'ll", "'ſ", "123", "12345678", "٣", "½", "²", "Ⅷ"),
    *(
        "你好",
        "Привет",
        "Köln",
        "Ko\u0308ln",
        "\u0301",
        "\u0338",
        ">",
        "한국",
        "ᄒ",
        "ไทย",
        "👩‍👩‍👧",
        "😀",
        "!?",
        "...",
        "#",
        "_",
        "ﬁ",
    ),
)
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="▁"), max_size=30),
    st.text(st.characters(max_codepoint=127), max_size=60),
    st.lists(st.sampled_from(_PIECES), max_size=12).map("".join),
).filter(lambda text: "think>" not in text and "tool_response>" not in text)  # these, templates read as markup


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@many
@given(text=TEXT)
def test_segments_are_tokenised_as_the_library_does(pipeline_of, kind, text):
    pipeline = pipeline_of(SHAPES["chatml"], kind)
    expected = _encode(pipeline.files.tokenizer, text)
    if not pipeline.tokenizer._segments.split(text)[1:]:
        assert pipeline.tokenizer._segments.encode(text) == id_bytes(expected)


def test_control_the_words_of_each_pipeline_are_remembered(pipeline_of):
    for kind in BYTE_LEVEL:
        segments = pipeline_of(SHAPES["chatml"], kind).tokenizer._segments
        assert segments._words is not None, "the property above would compare the library with itself"
        assert segments._words.knows("Köln, 你好 and more\n") and not segments._words.knows("Ko\u0308ln")


@pytest.mark.parametrize("kind", ["gemma", "metaspace", "unigram"])
def test_a_tokenizer_whose_pieces_depend_on_each_other_has_no_segments(pipeline_of, kind):
    assert pipeline_of(SHAPES["chatml"], kind).tokenizer._segments is None


@pytest.mark.parametrize("flag", ["normalized", "lstrip", "rstrip", "single_word"])
def test_an_added_token_that_looks_around_forbids_segments(flag):
    tokenizer = Tokenizer.from_str(_trained_json("gpt2"))
    tokenizer.add_special_tokens([AddedToken("<|end|>", **{"normalized": False, flag: True})])
    assert segment_encoder(tokenizer) is None


def test_a_first_blank_of_its_own_forbids_segments():
    tokenizer = Tokenizer.from_str(_trained_json("gpt2"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert segment_encoder(tokenizer) is None


_PROPERTY_SHAPES = [
    "chatml",
    "qwen3",
    "llama3",
    "deepseek",
    "harmony",
    "mistral",
    "phi3",
    "gemma",
    "pad-is-eos",
    "plain-end",
]
_SPECIAL_TEXT = ["<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "</s>", "[/INST]", "<|end|>", "</think>"]
_QUESTION = st.one_of(TEXT, st.tuples(TEXT, st.sampled_from(_SPECIAL_TEXT), TEXT).map("".join))


@st.composite
def chats(draw: st.DrawFn) -> Messages:
    """One to three questions with answers; special tokens stand in questions only."""
    messages = [{"role": "system", "content": draw(TEXT) or "Be brief."}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(_QUESTION)})
        messages.append({"role": "assistant", "content": draw(TEXT)})
    return messages


@pytest.mark.parametrize("name", _PROPERTY_SHAPES)
@many
@given(messages=chats())
def test_any_chat_trains_its_replies_to_the_character(pipeline_of, name, messages):
    shape = SHAPES[name]
    pipeline = pipeline_of(shape)
    tokenizer, masked = pipeline.files.tokenizer, _masked(pipeline, messages)
    texts, sequences = pipeline.tokenizer.tokenize(masked)
    runs = [run for sequence in sequences for run in _trained(tokenizer, sequence)]
    expected = [shape.expected(messages, i) for i, said in enumerate(messages) if said["role"] == "assistant"]
    if shape.pipeline == "qwen":  # its tokenizer normalises
        expected = [unicodedata.normalize("NFC", text) for text in expected]
    assert [text for _, text in runs] == expected
    prompts = [text.text[:begin] for text in texts for begin, _ in text.spans]
    assert [before for before, _ in runs] == [_encode(tokenizer, prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("name", "kind"), [("chatml", kind) for kind in BYTE_LEVEL] + [("qwen3", "qwen"), ("plain-end", "llama3")]
)
@many
@given(messages=chats())
@example(messages=[{"role": "user", "content": ""}, {"role": "assistant", "content": " "}])
def test_both_ways_give_the_same_tokens(pipeline_of, name, kind, messages):
    pipeline = pipeline_of(SHAPES[name], kind)
    masked = _masked(pipeline, messages)
    fast, slow = pipeline.tokenizer.tokenize(masked), _without_segments(pipeline).tokenize(masked)
    assert fast[0] == slow[0]
    for ours, theirs in zip(fast[1], slow[1], strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.is_trained.tolist() == theirs.is_trained.tolist()


# Its generation prompt ends in a blank, which byte-level pre-tokenisation joins to the first word of the reply.
_BLANK_BEHIND_PROMPT = replace(
    SHAPES["chatml"],
    source="{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
)
# Messages end in a blank, which the same joins to the role behind it.
_BLANK_BETWEEN_TURNS = replace(
    SHAPES["plain-end"],
    source="{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
)
_TWO_TURNS = [
    *({"role": "user", "content": "Who asks?"}, {"role": "assistant", "content": "the user asks."}),
    *({"role": "user", "content": "Who answers?"}, {"role": "assistant", "content": "the assistant answers."}),
]


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (_BLANK_BEHIND_PROMPT, ["the user asks.<|im_end|>", "the assistant answers.<|im_end|>"]),
        (_BLANK_BETWEEN_TURNS, [" the user asks. ", " the assistant answers. "]),
    ],
    ids=["behind the prompt", "between turns"],
)
def test_a_reply_that_begins_or_ends_inside_a_token_is_cut_where_inference_cuts(pipeline_of, shape, expected, kind):
    pipeline = pipeline_of(shape, kind)
    tokenizer, masked = pipeline.files.tokenizer, _masked(pipeline, _TWO_TURNS)
    for way in (pipeline.tokenizer, _without_segments(pipeline)):
        texts, sequences = way.tokenize(masked)
        runs = [run for sequence in sequences for run in _trained(tokenizer, sequence)]
        assert [text for _, text in runs] == expected
        prompts = [text.text[:begin] for text in texts for begin, _ in text.spans]
        assert [before for before, _ in runs] == [_encode(tokenizer, prompt) for prompt in prompts]
        assert prompts[1] == pipeline.template.render(_TWO_TURNS[:3], add_generation_prompt=True).text


def test_texts_tokenised_in_pieces_are_counted(pipeline_of):
    tokenizer = pipeline_of(_BLANK_BEHIND_PROMPT, "gpt2").tokenizer
    tokenizer.take_num_split()
    tokenizer.tokenize(_masked(pipeline_of(_BLANK_BEHIND_PROMPT, "gpt2"), _TWO_TURNS))
    assert (tokenizer.take_num_split(), tokenizer.take_num_split()) == (2, 0)


def test_pieces_that_do_not_add_up_are_an_error(pipeline_of, monkeypatch):
    pipeline = pipeline_of(_BLANK_BEHIND_PROMPT, "unigram")
    monkeypatch.setattr(pipeline.tokenizer, "_adds_prefix", False)  # as if nobody knew of the blank of its own
    with pytest.raises(RowError, match=r"^d\.jsonl:1: .*do not add up") as caught:
        pipeline.row(json.dumps(_TWO_TURNS).encode(), "d.jsonl:1", "messages")
    assert caught.value.code == "MASK_UNPROVED"
    assert "in one piece: 'the user" in caught.value.message and "in two pieces: ' the user" in caught.value.message


@pytest.mark.parametrize("words", [("</think>",), ("</tool_call>",)])
@pytest.mark.parametrize("name", ["marked-with-end", "marked-without-end"])
@pytest.mark.parametrize("content", ["<think>Hm.</think>", "<think>Hm.</think>\n\n", "</tool_call>\n", ""])
def test_marked_replies_end_with_the_end_of_turn(pipeline_of, name, words, content):
    pipeline = pipeline_of(replace(SHAPES[name], words=words))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    for way in (pipeline.tokenizer, _without_segments(pipeline)):
        _, [sequence] = way.tokenize(_masked(pipeline, messages))
        assert [text for _, text in _trained(pipeline.files.tokenizer, sequence)] == [content + "<|im_end|>"]


def test_an_end_of_turn_that_swallows_the_blanks_behind_it_is_trained(pipeline_of):
    source = "{% for m in messages %}\n\n<|{{ m.role }}|>\n{{ m.content }}<|end|>{% endfor %}"
    prompt = "{% if add_generation_prompt %}\n\n<|assistant|>\n{% endif %}"
    pipeline = pipeline_of(replace(SHAPES["phi3"], source=source + prompt))
    _, [sequence] = pipeline.tokenizer.tokenize(_masked(pipeline, _TWO_TURNS))
    expected = ["the user asks.<|end|>", "the assistant answers.<|end|>"]
    assert [text for _, text in _trained(pipeline.files.tokenizer, sequence)] == expected


@pytest.mark.parametrize(("text", "expected"), [("Water.", "<s>Water.</s>"), ("Water.</s>", "<s>Water.</s>")])
def test_documents_are_trained_whole_between_their_beginning_and_end(pipeline_of, text, expected):
    pipeline = pipeline_of(replace(SHAPES["double-bos"], eos="</s>"))
    [sequence] = pipeline.row(json.dumps({"text": text}).encode(), "d.jsonl:1", "text").sequences
    assert pipeline.files.tokenizer.decode(sequence.ids.tolist(), skip_special_tokens=False) == expected
    assert sequence.is_trained.all() and sequence.num_targets == len(sequence) - 1


def test_a_directory_without_template_or_tokenizer(tmp_path):
    with pytest.raises(ModelError, match="no chat template"):
        load_chat_template(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)

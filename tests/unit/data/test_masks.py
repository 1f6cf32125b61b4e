"""What is trained: exactly what the assistant says plus its end of turn, whatever the template does."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import CHATML, SHAPES, Messages, Shape
from test_tokenizers import write_directory
from transformers.utils.chat_template_utils import render_jinja_template

from xtuner.data import mask, rows, tokenize
from xtuner.data.lines import Chunk
from xtuner.data.mask import MaskedText
from xtuner.data.options import RowOptions
from xtuner.data.problems import RowError
from xtuner.data.rows import ChunkResult, PipelineSpec, RowPipeline
from xtuner.data.tokenize import SequenceTokenizer, TokenSequence

_WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "call12345", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
_RESULT = {"role": "tool", "content": '{"celsius": 21}', "tool_call_id": "call12345", "name": "weather"}


def _chat(*contents: str, system: str = "") -> Messages:
    """User and assistant by turns."""
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def _reply(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


ROWS: dict[str, Messages] = {
    "single": _chat("Hi", "Hello there."),
    "multi-turn": _chat(
        "What boils?", "Water, 你好 😀.", "When?", "At 100.\n\nOr at less.", "Thanks", "You're welcome!"
    ),
    "system": _chat("Hi", "Hello.", "Bye", "See you.", system="Be brief."),
    "tools": [
        *_chat("Is it warm?"),
        *(_reply("", tool_calls=[_CALL]), _RESULT, _reply("Yes, 21 degrees.")),
        *_chat("Good", "Enjoy it."),
    ],
    "reasoning": [
        *(*_chat("1+1?"), _reply("Two.", reasoning_content="One and one\nmake two.")),
        *(*_chat("2+2?"), _reply("Four.", reasoning_content="Twice that.")),
    ],
    "reasoning about tools": [
        *(*_chat("Is it warm?"), _reply("", reasoning_content="Ask.", tool_calls=[_CALL])),
        *(_RESULT, _reply("Yes.", reasoning_content="21 is warm.")),
    ],
    "empty content": _chat("Say nothing", "", "", "You said nothing."),
    "edges": _chat("  padded\n", "\n\n  an answer \n"),
    "trailing user": _chat("Hi", "Hello.", "Nobody answers this"),
    "consecutive": [*_chat("Go on", "First."), _reply("Then.")],
}


def _tools(kind: str) -> list[Any] | None:
    return [_WEATHER] if "tools" in kind else None


Pipelines = Callable[..., RowPipeline]


@pytest.fixture(scope="module")
def pipeline_of(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    @lru_cache
    def make(shape: Shape, pipeline: str = "", **options: Any) -> RowPipeline:
        directory = write_directory(tmp_path_factory.mktemp("model"), shape, pipeline)
        return RowPipeline(PipelineSpec(directory, options=RowOptions(**options)))

    return make


def _line(messages: Messages, tools: list[Any] | None = None) -> bytes:
    return json.dumps({"messages": messages, "tools": tools}).encode()


def _process(pipeline: RowPipeline, *chats: Messages, tools: list[Any] | None = None) -> ChunkResult:
    lines = [_line(messages, tools) for messages in chats]
    chunk = Chunk(0, list(range(1, len(lines) + 1)), lines, ends_file=True)
    return pipeline.process(chunk, Path("d.jsonl"), "messages")


def _rendered(shape: Shape, messages: Messages, tools: list[Any] | None, *, as_prompt: bool = False) -> str:
    """What inference renders, by the library's own function."""
    names = {"bos_token": shape.bos, "eos_token": shape.eos or shape.end}
    special = {name: token for name, token in names.items() if token}
    [text], _ = render_jinja_template(
        [messages], tools=tools, chat_template=shape.source, add_generation_prompt=as_prompt, **special
    )
    return text


def _decode(pipeline: RowPipeline, ids: list[int]) -> str:
    return pipeline.files.tokenizer.decode(ids, skip_special_tokens=False)


def _encode(pipeline: RowPipeline, text: str) -> list[int]:
    return pipeline.files.tokenizer.encode(text, add_special_tokens=False).ids


def _trained(pipeline: RowPipeline, sequence: TokenSequence) -> list[tuple[list[int], str]]:
    """For each run of trained tokens: the tokens before it, and its text."""
    ids, runs, begin = sequence.ids.tolist(), [], 0
    for is_trained, group in groupby(sequence.is_trained.tolist()):
        end = begin + len(list(group))
        if is_trained:  # a tokenizer may decode a run otherwise when nothing stands before it
            runs.append((ids[:begin], _decode(pipeline, ids[:end])[len(_decode(pipeline, ids[:begin])) :]))
        begin = end
    return runs


def check_row(pipeline: RowPipeline, shape: Shape, messages: Messages, tools: list[Any] | None = None) -> None:
    """Every reply is trained once, to the character, behind the tokens that inference feeds, and nothing else is."""
    done = pipeline.row(_line(messages, tools), "d.jsonl:1", "messages")
    expected = {i: shape.expected(messages, i) for i, said in enumerate(messages) if said["role"] == "assistant"}
    turns = [turn for turn, text in expected.items() if text]  # without an end of turn, silence has no token
    runs = [_trained(pipeline, sequence) for sequence in done.sequences]
    assert [text for of_sequence in runs for _, text in of_sequence] == [expected[turn] for turn in turns]
    for turn, (before, _) in zip(turns, (run for of_sequence in runs for run in of_sequence), strict=True):
        assert before == _encode(pipeline, _rendered(shape, messages[:turn], tools, as_prompt=True))
    for masked, sequence in zip(done.texts, done.sequences, strict=True):
        shown, text = _decode(pipeline, sequence.ids.tolist()), masked.text
        if shape.strips_right:
            shown, text = "".join(shown.split()), "".join(text.split())
        assert shown == text


MATRIX = [pytest.param(name, kind, id=f"{name}-{kind}") for name, shape in SHAPES.items() for kind in shape.rows]


@pytest.mark.parametrize("is_fast", [True, False], ids=["by segments", "by offsets"])
@pytest.mark.parametrize(("name", "kind"), MATRIX)
def test_each_reply_and_its_end_of_turn_are_trained(pipeline_of, monkeypatch, name, kind, is_fast):
    pipeline = pipeline_of(SHAPES[name])
    if not is_fast:
        monkeypatch.setattr(pipeline.tokenizer, "_segments", None)
    check_row(pipeline, SHAPES[name], ROWS[kind], _tools(kind))


@pytest.mark.parametrize("name", SHAPES)
def test_a_sequence_is_the_rendering_up_to_its_last_reply(pipeline_of, name):
    shape = SHAPES[name]
    texts = pipeline_of(shape).row(_line(ROWS["multi-turn"]), "d.jsonl:1", "messages").texts
    renderings = [_rendered(shape, ROWS["multi-turn"][: turn + 1], None) for turn in (1, 3, 5)]
    is_rewritten = not renderings[-1].startswith(renderings[0])
    assert [masked.text for masked in texts] == (renderings if is_rewritten else renderings[-1:])
    assert is_rewritten == name.startswith(("qwen3", "harmony"))


# Mutations: each breaks the mask code in one way, and `check_row` must see it under the templates that it touches.

_REPLY_SPANS, _END_AT_SPECIAL, _MASK_CHAT = mask._reply_spans, tokenize._end_at_special, mask.mask_chat
_ALL = frozenset(SHAPES)
_WITH_LAYOUT = {*_ALL} & {"chatml", "chatml-tools", "default-system", "marked-without-end", "qwen3", "qwen3-thinking"}
_WITH_LAYOUT |= {"gemma", "trimming", "pad-is-eos", "no-bos", "double-bos"}


def _begin_shifted(by: int) -> Callable[..., Any]:
    return lambda *args: tuple((begin + by, end) for begin, end in _REPLY_SPANS(*args))


def _as_rendered(masked: MaskedText, specials: Any) -> list[tuple[int, int]]:
    return [*masked.spans]


def _end_shifted(masked: MaskedText, specials: Any) -> list[tuple[int, int]]:
    return [(begin, end - 1) for begin, end in _END_AT_SPECIAL(masked, specials)]


def _all_trained(ids: Any, is_trained: Any) -> TokenSequence:
    return TokenSequence(ids, np.ones(len(ids), dtype=np.bool_))


def _end_untrained(ids: Any, is_trained: Any) -> TokenSequence:
    return TokenSequence(ids, is_trained & np.append(is_trained[1:], False))


@pytest.mark.parametrize(
    ("owner", "attribute", "broken", "kind", "concerned"),
    [
        pytest.param(mask, "_reply_spans", _begin_shifted(1), "single", _ALL, id="begins late"),
        pytest.param(mask, "_reply_spans", _begin_shifted(-1), "single", _ALL, id="begins early"),
        pytest.param(tokenize, "_end_at_special", _as_rendered, "single", _WITH_LAYOUT, id="with layout"),
        pytest.param(tokenize, "_end_at_special", _end_shifted, "single", _ALL, id="ends early"),
        pytest.param(tokenize, "TokenSequence", _all_trained, "single", _ALL, id="all is trained"),
        pytest.param(tokenize, "TokenSequence", _end_untrained, "single", _ALL, id="the last token is padding"),
        pytest.param(mask, "trained_turns", lambda chat, _: [1], "multi-turn", _ALL, id="one reply only"),
        pytest.param(
            *(rows, "mask_chat", lambda *args: _MASK_CHAT(*args)[-1:], "system"),
            *({"qwen3", "qwen3-thinking", "harmony", "mistral"},),
            id="the last rendering only",
        ),
        pytest.param(
            *(SequenceTokenizer, "_is_prompt_intact", lambda *_: True, "edges", {"phi3"}),
            id="a token across the beginning",
        ),
    ],
)
def test_control_a_broken_mask_is_seen(pipeline_of, monkeypatch, owner, attribute, broken, kind, concerned):
    monkeypatch.setattr(owner, attribute, broken)
    for name in sorted(concerned):
        with pytest.raises((AssertionError, RowError)):
            check_row(pipeline_of(SHAPES[name]), SHAPES[name], ROWS[kind])


def _texts(pipeline: RowPipeline, messages: Messages, tools: list[Any] | None = None) -> list[str]:
    sequences = pipeline.row(_line(messages, tools), "d.jsonl:1", "messages").sequences
    return [text for sequence in sequences for _, text in _trained(pipeline, sequence)]


def test_policies(pipeline_of):
    messages = ROWS["multi-turn"]
    last = pipeline_of(SHAPES["qwen3"], mask_policy="last-assistant")
    assert _texts(last, messages) == [SHAPES["qwen3"].expected(messages, 5)]
    full = pipeline_of(SHAPES["qwen3"], mask_policy="full")
    assert _texts(full, messages) == [_rendered(SHAPES["qwen3"], messages, None)]
    assert _texts(full, messages[:1]) == [_rendered(SHAPES["qwen3"], messages[:1], None)]


@pytest.mark.parametrize("name", ["chatml", "qwen3"])
@pytest.mark.parametrize(
    ("policy", "switches", "turns"),
    [
        ("all-assistant", {1: {"loss": False}}, [3, 5]),
        ("all-assistant", {3: {"weight": 0}, 5: {"train": False}}, [1]),
        ("all-assistant", {0: {"loss": False}, 3: {"loss": None}, 5: {"weight": 1}}, [1, 3, 5]),
        ("last-assistant", {1: {"train": True}}, [1, 5]),
        ("last-assistant", {3: {"weight": 1.0}, 5: {"loss": 0}}, [3]),
        ("all-assistant", {turn: {"loss": False} for turn in (1, 3, 5)}, []),
    ],
)
def test_a_message_has_the_last_word_on_its_loss(pipeline_of, name, policy, switches, turns):
    messages = [{**message, **switches.get(i, {})} for i, message in enumerate(ROWS["multi-turn"])]
    pipeline = pipeline_of(SHAPES[name], mask_policy=policy)
    assert _texts(pipeline, messages) == [SHAPES[name].expected(messages, turn) for turn in turns]
    result = _process(pipeline, messages)
    assert result.counts.without_reply == (not turns) and result.problems.counts["NO_REPLY"] == (not turns)
    assert result.problems.counts["NOT_SHOWN"] == 0


@pytest.mark.parametrize(
    ("index", "switch", "words"),
    [(1, {"loss": 0.5}, "`loss` is 0.5"), (1, {"train": "yes"}, "'yes'"), (0, {"weight": 1}, "what the user says")],
)
def test_a_switch_that_cannot_be_followed_is_an_error(pipeline_of, index, switch, words):
    messages = [{**message, **(switch if i == index else {})} for i, message in enumerate(ROWS["single"])]
    with pytest.raises(RowError, match=rf"^d\.jsonl:1: message {index}: .*{words}") as caught:
        _texts(pipeline_of(SHAPES["chatml"]), messages)
    assert caught.value.code == "BAD_LOSS" and caught.value.hint


def test_a_switch_against_the_policy_that_trains_all_is_an_error(pipeline_of):
    messages = [ROWS["single"][0], {**ROWS["single"][1], "loss": False}]
    with pytest.raises(RowError, match=r"^d\.jsonl:1: message 1 .*--mask-policy full") as caught:
        _texts(pipeline_of(SHAPES["chatml"], mask_policy="full"), messages)
    assert caught.value.code == "BAD_LOSS"


def _with_prompt(prompt: str) -> Shape:
    return replace(SHAPES["chatml"], source=CHATML.replace("<|im_start|>assistant\n{% endif", prompt + "\n{% endif"))


_MARKS_THE_USER = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}",
)
_MARKS_IN_A_MACRO = CHATML.replace("{% for m in messages %}", "{% macro show(m) %}").replace(
    "{{ m.content }}<|im_end|>\n{% endfor %}",
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endmacro %}"
    "{% for m in messages %}{{ show(m) }}{% endfor %}",
)


@pytest.mark.parametrize(
    ("shape", "prompt_goes_on", "reply"),
    [
        (_with_prompt("<|im_start|>bot"), "bot", "assistant"),
        (_with_prompt("<|im_start|>assistant\n<think>"), "<think>", "Hello there."),
    ],
)
def test_what_cannot_be_proved_is_an_error_with_both_renderings(pipeline_of, shape, prompt_goes_on, reply):
    with pytest.raises(RowError, match=r"^d\.jsonl:1: message 1: .*cannot be proved") as caught:
        _texts(pipeline_of(shape), ROWS["single"])
    assert caught.value.code == "MASK_UNPROVED" and "--chat-template" in caught.value.hint
    _, ours, theirs = caught.value.message.split("\n")
    assert ours.split("'")[1].startswith(prompt_goes_on) and theirs.split("'")[1].startswith(reply)


@pytest.mark.parametrize("source", [_MARKS_THE_USER, _MARKS_IN_A_MACRO], ids=["user marked", "marked in a macro"])
def test_marks_that_miss_the_reply_are_an_error(pipeline_of, source):
    messages = _chat("Hi", "A reply that is longer than what the template writes before it.")
    with pytest.raises(RowError, match=r"^d\.jsonl:1: message 1: .*\{% generation %\}") as caught:
        _texts(pipeline_of(replace(SHAPES["chatml"], source=source)), messages)
    assert caught.value.code == "MASK_UNPROVED"


def test_the_templates_own_complaint_is_shown_with_the_row(pipeline_of):
    result = _process(pipeline_of(SHAPES["gemma"]), ROWS["single"], ROWS["consecutive"])
    assert result.counts.rows_in_error == 1 and result.counts.sequences == 1
    assert result.problems.first_error.code == "TEMPLATE_REFUSED"
    assert result.problems.first_error.message.startswith("d.jsonl:2: ")
    assert "Conversation roles must alternate" in result.problems.first_error.message


def _not_shown(pipeline: RowPipeline, messages: Messages, tools: list[Any] | None = None) -> list[str]:
    found = _process(pipeline, messages, tools=tools).problems.examples.get("NOT_SHOWN", [])
    return [problem.message.removeprefix("d.jsonl:1: ").split(" is not in")[0] for problem in found]


def test_what_the_template_hides_is_reported(pipeline_of):
    thought = ROWS["reasoning"]
    assert _not_shown(pipeline_of(SHAPES["qwen3"]), thought) == []
    last = pipeline_of(SHAPES["qwen3"], mask_policy="last-assistant")
    assert _not_shown(last, thought) == ["message 1: its reasoning"]
    assert _not_shown(pipeline_of(SHAPES["chatml"]), thought) == [
        "message 1: its reasoning",
        "message 3: its reasoning",
    ]
    inline = _chat("Hi", "<think>Greet.</think>Hello.", "Bye", "See you.")
    assert _not_shown(pipeline_of(SHAPES["deepseek"]), inline) == ["message 1: its content"]
    assert _not_shown(pipeline_of(SHAPES["chatml"]), ROWS["trailing user"]) == []
    calls = ["message 1: its call of weather", "the tool weather"]
    assert _not_shown(pipeline_of(SHAPES["chatml"]), ROWS["tools"], _tools("tools")) == calls
    assert _not_shown(pipeline_of(SHAPES["chatml-tools"]), ROWS["tools"], _tools("tools")) == []


@pytest.mark.parametrize("name", SHAPES)
def test_ends_and_beginnings_are_counted(pipeline_of, name):
    shape = SHAPES[name]
    counts = _process(pipeline_of(shape), ROWS["multi-turn"], ROWS["trailing user"]).counts
    assert (counts.rows, counts.replies, counts.rows_in_error) == (2, 4, 0)
    assert counts.replies_ended == (4 if shape.end else 0)
    assert counts.end_tokens == ({shape.end: 4} if shape.end else {})
    num_bos = int(shape.bos is not None and name != "no-bos")
    assert counts.begin_tokens == ({num_bos: counts.sequences} if shape.bos else {})


def test_tool_calls_end_with_their_own_token(pipeline_of):
    counts = _process(pipeline_of(SHAPES["harmony"]), ROWS["tools"], tools=_tools("tools")).counts
    assert counts.end_tokens == {"<|call|>": 1, "<|return|>": 2}


def test_two_beginnings_are_counted(pipeline_of):
    twice = replace(SHAPES["double-bos"], source="{{ bos_token }}" + SHAPES["double-bos"].source)
    assert _process(pipeline_of(twice), ROWS["single"]).counts.begin_tokens == {2: 1}


def test_the_end_of_turn_is_a_target_though_it_pads(pipeline_of):
    pipeline = pipeline_of(SHAPES["pad-is-eos"])
    result = _process(pipeline, ROWS["multi-turn"])
    is_end = result.ids == pipeline.files.tokenizer.token_to_id("<|endoftext|>")
    assert np.count_nonzero(is_end & result.is_trained) == 3 and np.count_nonzero(is_end) == 6


def test_a_system_text_shown_beside_an_open_question_alone_is_trained_with_it(pipeline_of):
    """Mistral 7B v0.3's own condition is `loop.last`: no rendering that ends with a reply shows the system text."""
    mistral = SHAPES["mistral"]
    shape = replace(mistral, source=mistral.source.replace("system and m == last_user", "system and loop.last"))
    check_row(pipeline_of(shape), shape, ROWS["system"])

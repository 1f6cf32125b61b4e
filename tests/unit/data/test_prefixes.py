"""The beginnings of a chat out of one rendering: what each shows alone, whatever a template looks at."""

from typing import Any

import pytest
from chat_templates import CHATML, SHAPES, Messages
from test_masks import ROWS, _tools

from xtuner.data import prefixes
from xtuner.data.chat import Chat
from xtuner.data.mask import mask_chat
from xtuner.data.prefixes import ChatPrefixes
from xtuner.data.problems import RowError
from xtuner.data.template import ChatTemplate, Rendering


def _template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of messages that are rendered alone; nothing is verified by rendering it twice."""
    numbers: list[int] = []
    render = ChatTemplate.render

    def counted(self: ChatTemplate, messages: Messages, *args: Any, **kwargs: Any) -> Rendering:
        numbers.append(len(messages))
        return render(self, messages, *args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    monkeypatch.setattr(prefixes, "NUM_VERIFIED", 0)
    prefixes._one_pass.cache_clear()
    return numbers


def _outcome(render: Any, *args: Any, **kwargs: Any) -> Rendering | str:
    try:
        rendering: Rendering = render(*args, **kwargs)
    except RowError as error:
        return error.message
    return rendering


def _assert_same(source: str, messages: Messages, tools: list[Any] | None = None) -> None:
    template = _template(source)
    beginnings = ChatPrefixes(template, messages, tools)
    for number in range(len(messages) + 1):
        for asks in (False, True):
            expected = _outcome(template.render, messages[:number], tools, add_generation_prompt=asks)
            assert _outcome(beginnings.render, number, add_generation_prompt=asks) == expected, (number, asks)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_beginning_of_every_family_is_what_it_is_alone(alone, name, kind):
    _assert_same(SHAPES[name].source, ROWS[kind], _tools(kind))


_TALK: Messages = [{"role": ("user", "assistant")[i % 2], "content": f"No. {i}"} for i in range(6)]

_BODY = "{{ m.role }}: {{ m.content }}\n"
_LOOP = "{% for m in messages %}" + _BODY + "{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}assistant: {% endif %}"

# What a template may ask of its messages, and the beginnings that must be rendered alone because of it.
_FROM_ONE: dict[str, str] = {
    "nothing": _LOOP + _PROMPT,
    "the first": "{{ messages[0].role }}" + _LOOP + _PROMPT,
    "the rest": "{% set rest = messages[1:] %}" + _LOOP.replace("in messages", "in rest") + _PROMPT,
    "the one before": _LOOP.replace(_BODY, "{{ messages[loop.index0 - 1].role if loop.index0 }}" + _BODY) + _PROMPT,
    "its own past": "{% set ns = namespace(seen='') %}"
    + _LOOP.replace(_BODY, _BODY + "{% set ns.seen = ns.seen ~ m.role %}{{ ns.seen }}")
    + _PROMPT,
    "some": "{% if messages %}Chat:\n{% endif %}" + _LOOP + _PROMPT,
    "an end of text": _LOOP + "{{ eos_token }}" + _PROMPT,
    "marks": _LOOP.replace(_BODY, "{% generation %}" + _BODY + "{% endgeneration %}|") + _PROMPT,
    "a macro": "{% macro show(m) %}{{ m.content }}{% endmacro %}" + _LOOP.replace(_BODY, "{{ show(m) }}") + _PROMPT,
    "an option": _LOOP + "{% if add_generation_prompt and not thinks %}assistant: {% endif %}",
}
_AHEAD: dict[str, str] = {
    "the last one": _LOOP.replace(_BODY, _BODY + "{% if loop.last %}END{% endif %}") + _PROMPT,
    "the next one": _LOOP.replace(_BODY, _BODY + "{{ (loop.nextitem or m).role }}") + _PROMPT,
    "the next one before its text": _LOOP.replace(_BODY, "{{ loop.nextitem is defined }}" + _BODY) + _PROMPT,
    "one further on": _LOOP.replace(_BODY, _BODY + "{% if messages[loop.index] is defined %}+{% endif %}") + _PROMPT,
    "how many": "{{ messages | length }}" + _LOOP + _PROMPT,
    "how many are left": _LOOP.replace(_BODY, _BODY + "{{ loop.revindex }}") + _PROMPT,
    "the end": "{{ messages[-1].role }}" + _LOOP + _PROMPT,
    "the end, by a filter": "{{ (messages | last).role }}" + _LOOP + _PROMPT,
    "backwards": "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}" + _LOOP + _PROMPT,
    "backwards alone": _LOOP.replace("in messages", "in messages | reverse") + _PROMPT,
    "all roles": "{{ messages | map(attribute='role') | join }}" + _LOOP + _PROMPT,
    "all roles, later": "{% set roles = messages | map(attribute='role') %}"
    + _LOOP.replace(_BODY, "{{ roles | list | length if loop.first }}" + _BODY)
    + _PROMPT,
    "all as JSON": "{{ messages | tojson }}" + _LOOP + _PROMPT,
    "all as text": "{{ messages | string }}" + _LOOP + _PROMPT,
    "a sum": "{% for m in messages + messages %}" + _BODY + "{% endfor %}" + _PROMPT,
    "a test": "{% if messages is sequence %}list{% endif %}" + _LOOP + _PROMPT,
    "a part": "{{ messages[:3] | map(attribute='role') | join }}{{ messages[-2:] | length }}" + _LOOP + _PROMPT,
    "some of them": _LOOP.replace("in messages", "in messages if m.role == 'user'") + _PROMPT,
    "none": "{% for m in messages %}" + _BODY + "{% else %}EMPTY{% endfor %}" + _PROMPT,
    "no more": _LOOP.replace(_BODY, _BODY + "{% if loop.index == 3 %}{% break %}{% endif %}") + _PROMPT,
    "the next, and on": _LOOP.replace(_BODY, "{% if loop.last %}{% continue %}{% endif %}" + _BODY) + _PROMPT,
    "what it wrote, behind": "{% set ns = namespace(role='') %}"
    + _LOOP.replace(_BODY, _BODY + "{% set ns.role = m.role %}")
    + "{{ ns.role if ns is defined }}"
    + _PROMPT,
    "the first, behind": _LOOP + "{{ messages[0].content }}" + _PROMPT,
    "a macro, behind": "{% set ns = namespace(n=0) %}{% macro total() %}{{ ns.n }}{% endmacro %}"
    + _LOOP.replace(_BODY, _BODY + "{% set ns.n = ns.n + 1 %}")
    + "{{ total() }}"
    + _PROMPT,
    "a loop behind": _LOOP + "{% for m in messages %}{{ loop.index }}{% endfor %}" + _PROMPT,
    "the prompt inside": _LOOP.replace(_BODY, _BODY + "{% if loop.last and add_generation_prompt %}go{% endif %}"),
    "the prompt in front": "{% if add_generation_prompt %}Answer.{% endif %}" + _LOOP,
    "the watch itself": "{{ watch_of_this_chat }}" + _LOOP + _PROMPT,
    "no loop": "{{ messages[0].content }}" + _PROMPT,
    "nothing that runs": "{% for %}",
}


@pytest.mark.parametrize("asked", [*_FROM_ONE, *_AHEAD])
def test_a_beginning_is_what_it_is_alone_whatever_is_asked(alone, asked):
    _assert_same({**_FROM_ONE, **_AHEAD}[asked], _TALK)


@pytest.mark.parametrize("asked", _FROM_ONE)
def test_one_rendering_shows_all_beginnings(alone, asked):
    beginnings = ChatPrefixes(_template(_FROM_ONE[asked]), _TALK, None)
    for number in range(2, len(_TALK) + 1):
        beginnings.render(number)
        beginnings.render(number, add_generation_prompt=True)
    assert alone == []


@pytest.mark.parametrize(
    ("owner", "attribute", "broken", "asked"),
    [
        (prefixes._Watch, "ask", lambda *_: None, "one further on"),
        (prefixes._Watch, "ask", lambda *_: None, "how many"),
        (prefixes._Watch, "begin_turn", lambda _: None, "the last one"),
        (prefixes, "_ends_in_loop", lambda *_: True, "what it wrote, behind"),
        (prefixes, "_ends_in_loop", lambda *_: True, "the prompt in front"),
    ],
)
def test_control_a_watch_that_does_not_look_is_seen(alone, monkeypatch, owner, attribute, broken, asked):
    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises(AssertionError):
        _assert_same(_AHEAD[asked], _TALK)


def test_a_template_that_says_one_thing_and_does_another_is_not_trusted(alone, monkeypatch):
    """The first beginnings are rendered both ways."""
    monkeypatch.setattr(prefixes, "NUM_VERIFIED", 3)
    monkeypatch.setattr(prefixes._Watch, "ask", lambda *_: None)
    _assert_same(_AHEAD["how many"], _TALK)
    assert ChatPrefixes(_template(_AHEAD["how many"]), _TALK, None)._whole is None


def test_a_chat_of_a_thousand_turns_is_rendered_once(alone):
    talk = _TALK[:2] * 1000
    [masked] = mask_chat(Chat("row", talk), _template(CHATML))
    assert alone == [] and len(masked.spans) == 1000
    assert {masked.text[begin:end] for begin, end in masked.spans} == {"No. 1<|im_end|>\n"}


def test_a_refused_chat_costs_later_ones_nothing(alone):
    refusal = "{% if m.content == 'No. 3' %}{{ raise_exception('no threes') }}{% endif %}"
    template = _template(_LOOP.replace(_BODY, refusal + _BODY) + _PROMPT)
    with pytest.raises(RowError, match=r"^row: .*no threes"):
        mask_chat(Chat("row", _TALK), template)
    alone.clear()
    mask_chat(Chat("row", _TALK[:2]), template)
    assert alone == []

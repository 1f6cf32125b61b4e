"""Every shape of a row becomes the same chat, and everything else becomes an error with a code and a hint."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from xtuner.data.chat import ROLES, Chat, Document
from xtuner.data.formats import detect_format, read_row
from xtuner.data.problems import ERRORS, RowError

WHERE = "d.jsonl:7"
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def _chat(value: Any, format: Any = "auto") -> Chat:
    row = read_row(value, format, WHERE)
    assert isinstance(row, Chat)
    return row


def _said(**message: Any) -> dict[str, Any]:
    """An assistant message with these keys, as it goes on."""
    return _chat([USER, {"role": "assistant", **message}]).messages[1]


SAME_CHAT: dict[str, tuple[Any, str]] = {
    "bare list": ([SYSTEM, USER, REPLY], "messages"),
    "messages": ({"messages": [SYSTEM, USER, REPLY], "id": 7}, "messages"),
    "dialogs": ({"dialogs": [SYSTEM, USER, REPLY]}, "messages"),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Yo"},
            ]
        },
        "sharegpt",
    ),
    "sharegpt with system apart": (
        {"system": "Be brief.", "conversations": [{"from": "user", "value": "Hi"}, {"from": "chatgpt", "value": "Yo"}]},
        "sharegpt",
    ),
    "sharegpt with roles": ({"conversations": [SYSTEM, USER, REPLY]}, "sharegpt"),
    "alpaca": ({"system": "Be brief.", "instruction": "Hi", "input": "", "output": "Yo"}, "alpaca"),
}


@pytest.mark.parametrize("case", SAME_CHAT)
def test_all_shapes_of_a_chat_become_the_same(case: str) -> None:
    value, format = SAME_CHAT[case]
    assert detect_format(value, WHERE) == format
    for asked in ("auto", format):
        assert _chat(value, asked).messages == [SYSTEM, USER, REPLY]
    others = {"messages", "sharegpt", "alpaca", "text"} - {format}
    if case == "sharegpt with roles":
        others.discard("messages")  # an object without `messages` all the same
    for other in others:
        with pytest.raises(RowError, match=f"no row of the format {other}") as caught:
            read_row(value, other, WHERE)
        assert caught.value.code == "WRONG_SHAPE" and "--dataset-format" in caught.value.hint


def test_alpaca_with_input_and_history() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"], ["c", "d"]]}
    assert [message["content"] for message in _chat(row).messages] == ["a", "b", "c", "d", "Add.\n1 2", "3"]
    assert _chat({"instruction": "Hi", "output": "Yo", "input": None, "history": None}).messages == [USER, REPLY]


def test_text_is_a_document() -> None:
    assert read_row({"text": "a\nb"}, "auto", WHERE) == Document(WHERE, "a\nb")


def test_every_role_is_kept() -> None:
    messages = [{"role": role, "content": "x"} for role in ROLES]
    assert _chat(messages).messages == messages


CONTENTS: list[tuple[Any, str]] = [
    ("", ""),
    ("a\0b", "a\0b"),
    ([], ""),
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    (["a", {"text": "b"}], "ab"),
]


@pytest.mark.parametrize(("content", "text"), CONTENTS)
def test_content_is_text_or_parts_of_text(content: Any, text: str) -> None:
    assert _said(content=content)["content"] == text


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": [1, "é"]}}}
CALLS: dict[str, Any] = {
    "object": {"function": {"name": "add", "arguments": {"a": [1, "é"]}}},
    "string": {"type": "function", "function": {"name": "add", "arguments": '{"a": [1, "\\u00e9"]}'}},
    "flat": {"name": "add", "arguments": '{"a": [1, "é"]}'},
}


@pytest.mark.parametrize("case", CALLS)
def test_arguments_are_an_object_however_they_are_written(case: str) -> None:
    assert _said(content=None, tool_calls=[CALLS[case]]) == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert _said(content="x", tool_calls=[{**CALLS[case], "id": "c1"}])["tool_calls"] == [{**CALL, "id": "c1"}]
    assert _said(tool_calls=[CALLS[case]])["content"] == ""  # no `content` at all


def test_no_arguments_are_none() -> None:
    for function in ({"name": "now"}, {"name": "now", "arguments": ""}, {"name": "now", "arguments": {}}):
        assert _said(content=None, tool_calls=[{"function": function}])["tool_calls"][0]["function"]["arguments"] == {}


def test_sharegpt_function_calls_and_observations() -> None:
    value = json.dumps({"name": "add", "arguments": {"a": [1, "é"]}})
    turns = [("human", "1+1?"), ("function_call", value), ("observation", "2"), ("gpt", "It is 2.")]
    chat = _chat({"conversations": [{"from": a, "value": b} for a, b in turns], "tools": json.dumps(TOOLS)})
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[1]["tool_calls"] == [CALL] and chat.tools == TOOLS


def test_tools_are_a_list_or_a_string_of_one() -> None:
    for tools in (TOOLS, json.dumps(TOOLS)):
        assert _chat({"messages": [USER, REPLY], "tools": tools}).tools == TOOLS
    for tools in (None, [], "", "[]", " "):
        assert _chat({"messages": [USER, REPLY], "tools": tools}).tools is None


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_both_names_that_templates_read(key: str) -> None:
    said = _said(content="4", **{key: "2+2"})
    assert said["reasoning_content"] == said["thinking"] == "2+2"
    assert "thinking" not in _said(content="4", **{key: None})


def test_names_and_call_ids_are_kept_and_other_keys_are_not() -> None:
    tool = {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1"}
    assert _chat([{**tool, "timestamp": 3}]).messages == [tool]


LOSSES: list[tuple[dict[str, Any], bool | None]] = [
    ({}, None),
    ({"loss": None}, None),
    ({"loss": False}, False),
    ({"loss": True}, True),
    ({"train": False}, False),
    ({"weight": 0}, False),
    ({"weight": 1.0}, True),
    ({"weight": 0.0, "name": "x"}, False),
]


@pytest.mark.parametrize(("keys", "says"), LOSSES)
def test_a_message_may_say_whether_it_is_trained(keys: dict[str, Any], says: bool | None) -> None:
    assert _chat([USER, {**REPLY, **keys}]).losses == [None, says]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo", **keys}]
    assert _chat({"conversations": turns}).losses == [None, says]


def _with_call(call: Any) -> list[Any]:
    return [USER, {"role": "assistant", "content": None, "tool_calls": call}]


def _with_part(part: Any) -> list[Any]:
    return [{"role": "user", "content": [part]}, REPLY]


def _sharegpt(**turn: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "Hi"}, turn]}


# name -> (row, code, words of message or hint)
REFUSED: dict[str, tuple[Any, str, str]] = {
    "null": (None, "WRONG_SHAPE", "the row is null"),
    "number": (5, "WRONG_SHAPE", "the row is a number"),
    "string": ("Hi", "WRONG_SHAPE", "the row is a string"),
    "boolean": (True, "WRONG_SHAPE", "the row is a boolean"),
    "other keys": ({"prompt": 1, "completion": 2}, "WRONG_SHAPE", "its keys: prompt, completion"),
    "no keys": ({}, "WRONG_SHAPE", "its keys: none"),
    "messages as object": ({"messages": {"role": "user"}}, "WRONG_SHAPE", "the messages are an object"),
    "messages as null": ({"messages": None}, "WRONG_SHAPE", "the messages are null"),
    "turns as string": ({"conversations": "x"}, "WRONG_SHAPE", "sharegpt"),
    "no messages": ([], "EMPTY", "empty list"),
    "no turns": ({"conversations": []}, "EMPTY", "empty list"),
    "no text": ({"text": ""}, "EMPTY", "`text` is empty"),
    "text as list": ({"text": ["a"]}, "WRONG_SHAPE", "text"),
    "message as string": ([USER, "Yo"], "BAD_MESSAGE", "message 1 is a string"),
    "turn as list": ({"conversations": [[]]}, "BAD_MESSAGE", "message 0 is a list"),
    "no role": ([{"content": "x"}], "BAD_MESSAGE", "message 0 has no `role`"),
    "no from": (_sharegpt(value="x"), "BAD_MESSAGE", "message 1 has no `from`"),
    "mistyped role": ([{"role": "asistant", "content": "x"}], "UNKNOWN_ROLE", "did you mean assistant"),
    "role of another case": ([{"role": "User", "content": "x"}], "UNKNOWN_ROLE", "did you mean user"),
    "role as list": ([{"role": ["user"], "content": "x"}], "UNKNOWN_ROLE", "known roles"),
    "role as null": ([{"role": None, "content": "x"}], "UNKNOWN_ROLE", "known roles"),
    "unknown speaker": (_sharegpt(**{"from": "alien", "value": "x"}), "UNKNOWN_ROLE", "function_call"),
    "speaker as list": (_sharegpt(**{"from": ["gpt"], "value": "x"}), "UNKNOWN_ROLE", "known speakers"),
    "content null": ([{"role": "user", "content": None}], "BAD_CONTENT", "`content` is null"),
    "content null beside no calls": ([{**REPLY, "content": None, "tool_calls": []}], "BAD_CONTENT", "null"),
    "content missing": ([{"role": "user"}], "BAD_CONTENT", "there is no `content`"),
    "content as number": ([{"role": "user", "content": 5}], "BAD_CONTENT", "`content` is a number"),
    "content as object": ([{"role": "user", "content": {}}], "BAD_CONTENT", "`content` is an object"),
    "value null": (_sharegpt(**{"from": "gpt", "value": None}), "BAD_CONTENT", "`content` is null"),
    "part as number": (_with_part(5), "BAD_CONTENT", "no text"),
    "part of no known type": (_with_part({"type": "file", "text": "x"}), "BAD_CONTENT", "no text"),
    "part without text": (_with_part({"type": "text"}), "BAD_CONTENT", "no text"),
    "part type as list": (_with_part({"type": ["text"], "text": "x"}), "BAD_CONTENT", "no text"),
    "part type as object": (_with_part({"type": {}, "text": "x"}), "BAD_CONTENT", "no text"),
    "reasoning as list": ([{**REPLY, "thinking": ["x"]}], "BAD_CONTENT", "its reasoning is a list"),
    "calls as object": (_with_call({"name": "f"}), "BAD_TOOL_CALL", "no list of objects"),
    "call as string": (_with_call(["f"]), "BAD_TOOL_CALL", "no list of objects"),
    "call without name": (_with_call([{"function": {}}]), "BAD_TOOL_CALL", "no function name"),
    "function as string": (_with_call([{"function": "f"}]), "BAD_TOOL_CALL", "no function name"),
    "arguments as list": (_with_call([{"name": "f", "arguments": []}]), "BAD_TOOL_CALL", "is a list"),
    "arguments as null": (_with_call([{"name": "f", "arguments": None}]), "BAD_TOOL_CALL", "is null"),
    "arguments not JSON": (_with_call([{"name": "f", "arguments": "{oops"}]), "BAD_TOOL_CALL", "not JSON"),
    "arguments a string in a string": (_with_call([{"name": "f", "arguments": '"{}"'}]), "BAD_TOOL_CALL", "a string"),
    "arguments with NaN": (_with_call([{"name": "f", "arguments": '{"a": NaN}'}]), "BAD_TOOL_CALL", "NaN"),
    "arguments with a key twice": (_with_call([{"name": "f", "arguments": '{"a":1,"a":2}'}]), "BAD_TOOL_CALL", "twice"),
    "arguments with half a pair": (
        _with_call([{"name": "f", "arguments": '{"a": "\\ud800"}'}]),
        "BAD_TOOL_CALL",
        "surrogate",
    ),
    "arguments of depth 100,000": (_with_call([{"name": "f", "arguments": "[" * 100_000}]), "BAD_TOOL_CALL", ""),
    "function call not JSON": (_sharegpt(**{"from": "function_call", "value": "f(1)"}), "BAD_TOOL_CALL", "not JSON"),
    "function call null": (_sharegpt(**{"from": "function_call", "value": None}), "BAD_TOOL_CALL", ""),
    "tools as number": ({"messages": [REPLY], "tools": 5}, "BAD_TOOL_CALL", "no list of objects"),
    "tools not JSON": ({"messages": [REPLY], "tools": "[oops"}, "BAD_TOOL_CALL", "not JSON"),
    "tools with half a pair": ({"messages": [REPLY], "tools": '[{"a": "\\ud800"}]'}, "BAD_TOOL_CALL", "surrogate"),
    "loss as share": ([{**REPLY, "weight": 0.5}], "BAD_LOSS", "`weight` is 0.5"),
    "loss as string": ([{**REPLY, "loss": "false"}], "BAD_LOSS", "`loss` is 'false'"),
    "loss as list": ([{**REPLY, "loss": []}], "BAD_LOSS", "`loss` is []"),
    "loss of a user": ([{**USER, "train": True}], "BAD_LOSS", "what the user says"),
    "alpaca output null": ({"instruction": "a", "output": None}, "BAD_CONTENT", "`output` is null"),
    "alpaca output 0": ({"instruction": "a", "output": 0}, "BAD_CONTENT", "`output` is a number"),
    "alpaca input as list": ({"instruction": "a", "input": [], "output": "b"}, "BAD_CONTENT", "`input` is a list"),
    "history as number": ({"instruction": "a", "output": "b", "history": 5}, "BAD_MESSAGE", "no list of pairs"),
    "history of threes": ({"instruction": "a", "output": "b", "history": [[1, 2, 3]]}, "BAD_MESSAGE", "pairs"),
    "history of numbers": ({"instruction": "a", "output": "b", "history": [[1, 2]]}, "BAD_CONTENT", "a number"),
    "sharegpt system as object": ({**_sharegpt(**REPLY), "system": {"a": 1}}, "BAD_CONTENT", "an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_chat_is_refused(case: str) -> None:
    value, code, words = REFUSED[case]
    with pytest.raises(RowError) as caught:
        read_row(value, "auto", WHERE)
    assert caught.value.code == code and words in caught.value.message + caught.value.hint
    assert caught.value.message.startswith(WHERE) and caught.value.hint and caught.value.exit_code == 4


@pytest.mark.parametrize("key", ["images", "image", "videos", "video", "audios", "audio"])
def test_rows_with_media_are_refused(key: str) -> None:
    with pytest.raises(RowError) as caught:
        read_row({"messages": [USER, REPLY], key: ["cat.png"]}, "auto", WHERE)
    assert caught.value.code == "HAS_IMAGE" and "only text" in caught.value.hint
    assert _chat({"messages": [USER, REPLY], key: []}).messages == [USER, REPLY]


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "audio", "input_audio", "video", "video_url"])
def test_parts_with_media_are_refused(kind: str) -> None:
    with pytest.raises(RowError, match=f"message 0: .*{kind}") as caught:
        read_row(_with_part({"type": kind, kind: {"url": "cat.png"}}), "auto", WHERE)
    assert caught.value.code == "HAS_IMAGE"


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "value",
    [{LONG: 1}, [{"role": LONG, "content": ""}], [{**REPLY, "loss": LONG}], _sharegpt(**{"from": LONG, "value": "x"})],
)
def test_a_long_value_does_not_fill_the_message(value: Any) -> None:
    with pytest.raises(RowError) as caught:
        read_row(value, "auto", WHERE)
    assert len(caught.value.message) < 400


JUNK = (None, True, 0, 5, 0.5, "", "x", "[]", "{", "NaN", [], {}, ["x"], [[]], [{}], {"type": "text"}, {"a": None})
WHOLE_ROWS = [
    *(value for value, _ in SAME_CHAT.values()),
    {"messages": _with_call([{**CALLS["string"], "id": "c1"}]), "tools": TOOLS},
    [{"role": "tool", "content": [{"type": "text", "text": "2"}], "name": "add", "tool_call_id": "c1"}],
    [{**REPLY, "loss": True, "weight": 1, "thinking": "hm", "reasoning": "hm"}],
    {"conversations": [{"from": "function_call", "value": json.dumps(CALLS["object"])}], "tools": "[]"},
    {"instruction": "a", "input": "b", "output": "c", "system": "d", "history": [["e", "f"]]},
    {"text": "a"},
]


def _with_junk(value: Any, junk: Any) -> Iterator[Any]:
    """`value` with `junk` in every place of it, one at a time."""
    yield junk
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, inner in places:
        for changed in _with_junk(inner, junk):
            copy = value.copy()
            copy[place] = changed
            yield copy


def test_junk_in_any_place_is_a_chat_a_document_or_a_row_error() -> None:
    num_read = num_refused = 0
    for value in (changed for row in WHOLE_ROWS for junk in JUNK for changed in _with_junk(row, junk)):
        try:
            row = read_row(value, "auto", WHERE)
        except RowError as error:
            assert error.code in ERRORS and error.message.startswith(WHERE)
            num_refused += 1
            continue
        num_read += 1
        if isinstance(row, Chat):
            assert all(message["role"] in ROLES and isinstance(message["content"], str) for message in row.messages)
            assert len(row.losses) == len(row.messages) > 0
            json.dumps([row.messages, row.tools], allow_nan=False)
    assert num_read > 200 and num_refused > 1000

"""The one form in which every chat goes on: messages as chat templates expect them, and what to train of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from xtuner.data.jsonl import parse_string
from xtuner.data.problems import RowError, shown

ROLES = ("system", "developer", "user", "assistant", "tool")

# What a template reads of a message; other keys of a row are not passed on.
Message = dict[str, Any]

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_LOSS_KEYS = ("loss", "train", "weight")
_MEDIA_TYPES = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url")


@dataclass(frozen=True)
class Chat:
    """The messages of one row.

    Attributes:
        where: file and line, for messages to the user.
        messages: each with `role` and `content` (text), some with `reasoning_content`, `tool_calls`, `name` and
            `tool_call_id`.
        tools: the tool schemas that the model is shown, or None.
        losses: for each message True or False where the row says whether to train it, None where it does not.
    """

    where: str
    messages: list[Message]
    tools: list[Any] | None = None
    losses: list[bool | None] = field(default_factory=list)

    @property
    def assistant_turns(self) -> list[int]:
        """Indices of what the assistant says."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]


@dataclass(frozen=True)
class Document:
    """A row of plain text, trained as a whole (continued pre-training)."""

    where: str
    text: str


def build_chat(messages: Any, tools: Any, where: str) -> Chat:
    """A chat of messages in OpenAI's form.

    Raises:
        RowError: no messages, an unknown role, content that is not text, tool calls that cannot be read.
    """
    if not isinstance(messages, list):
        raise RowError("WRONG_SHAPE", f"{where}: the messages are {kind_of(messages)}, not a list", hint=MESSAGES_HINT)
    if not messages:
        raise RowError("EMPTY", f"{where}: the row is an empty list of messages", hint=MESSAGES_HINT)
    built = [_read_message(message, f"{where}: message {i}") for i, message in enumerate(messages)]
    losses = [_read_loss(message, f"{where}: message {i}") for i, message in enumerate(messages)]
    return Chat(where, built, read_tools(tools, where), losses)


MESSAGES_HINT = 'a row is [{"role": "user", "content": "..."}, ...] or {"messages": [...]}'


def kind_of(value: Any) -> str:
    """`value`'s JSON type with its article, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(
            "BAD_MESSAGE", f"{where} is {kind_of(message)}", hint='a message is {"role": ..., "content": ...}'
        )
    role = message.get("role")
    if role not in ROLES:
        raise _unknown_role(message, where)
    built: Message = {"role": role, "content": _read_content(message, where)}
    if calls := message.get("tool_calls"):
        built["tool_calls"] = read_tool_calls(calls, where)
    reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key)), None)
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise RowError("BAD_CONTENT", f"{where}: its reasoning is {kind_of(reasoning)}", hint="write it as text")
        # Templates read one name or the other, whatever the row calls it.
        built["reasoning_content"] = built["thinking"] = reasoning
    for key in ("name", "tool_call_id"):
        if isinstance(message.get(key), str):
            built[key] = message[key]
    return built


def _unknown_role(message: dict[str, Any], where: str) -> RowError:
    if "role" not in message:
        return RowError("BAD_MESSAGE", f"{where} has no `role`", hint=f"known roles: {', '.join(ROLES)}")
    role = message["role"]
    nearest = get_close_matches(str(role)[:20], ROLES, n=1)
    hint = (f"did you mean {nearest[0]}? " if nearest else "") + f"known roles: {', '.join(ROLES)}"
    return RowError("UNKNOWN_ROLE", f"{where} has the role {shown(role)}", hint=hint)


def _read_content(message: dict[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_read_part(part, where) for part in content)
    if content is None and message.get("tool_calls"):
        return ""
    what = f"`content` is {kind_of(content)}" if "content" in message else "there is no `content`"
    raise RowError(
        "BAD_CONTENT",
        f"{where}: {what}",
        hint="`content` is the text of the message; it may be null only beside `tool_calls`",
    )


def _read_part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _MEDIA_TYPES:
        raise images_refused(f"{where}: a part of `content` is of the type {kind!r}")
    if isinstance(part, dict) and kind in ("text", None) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowError(
        "BAD_CONTENT", f"{where}: a part of `content` is no text", hint='a part is {"type": "text", "text": "..."}'
    )


def images_refused(what: str) -> RowError:
    """The answer to a row with images, audio or video."""
    return RowError("HAS_IMAGE", what, hint="only text is trained here; take these rows out of the file")


def _read_loss(message: dict[str, Any], where: str) -> bool | None:
    """The row's own word on whether to train a message: `loss` or `train` (true, false), or `weight` (0, 1)."""
    for key in _LOSS_KEYS:
        value = message.get(key)
        if value is None:
            continue
        if value not in (0, 1):  # True and False are 1 and 0
            raise RowError(
                "BAD_LOSS", f"{where}: `{key}` is {shown(value)}", hint=f"`{key}` is true or false, or 1 or 0, no share"
            )
        if value and message.get("role") != "assistant":
            raise RowError(
                "BAD_LOSS",
                f"{where}: `{key}` asks to train what the {message.get('role')} says",
                hint="only assistant messages can be trained one by one; --mask-policy full trains all text",
            )
        return bool(value)
    return None


def read_tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as `{"type": "function", "id"?, "function": {"name", "arguments": object}}`.

    Arguments written as a string of JSON become the object that it holds, as templates expect it.

    Raises:
        RowError: not calls, no name, arguments that are no JSON object.
    """
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError("BAD_TOOL_CALL", f"{where}: `tool_calls` is no list of objects", hint=_CALL_HINT)
    return [_read_tool_call(call, f"{where}: tool call {i}") for i, call in enumerate(calls)]


_CALL_HINT = 'a tool call is {"function": {"name": "...", "arguments": {...}}}'


def _read_tool_call(call: dict[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RowError("BAD_TOOL_CALL", f"{where} has no function name", hint=_CALL_HINT)
    built: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": _read_arguments(function.get("arguments", {}), where)},
    }
    if isinstance(call.get("id"), str):
        built["id"] = call["id"]
    return built


def _read_arguments(arguments: Any, where: str) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = parse_string(arguments or "{}")
        except ValueError as error:
            raise RowError(
                "BAD_TOOL_CALL", f"{where}: `arguments` is a string that is not JSON: {error}", hint=_CALL_HINT
            ) from None
    if not isinstance(arguments, dict):
        raise RowError("BAD_TOOL_CALL", f"{where}: `arguments` is {kind_of(arguments)}, no object", hint=_CALL_HINT)
    return arguments


def read_tools(tools: Any, where: str) -> list[Any] | None:
    """The tool schemas of a row: a list of objects, or a string of JSON that holds one.

    Raises:
        RowError: neither.
    """
    if isinstance(tools, str):
        try:
            tools = parse_string(tools) if tools.strip() else None
        except ValueError as error:
            raise RowError(
                "BAD_TOOL_CALL", f"{where}: `tools` is a string that is not JSON: {error}", hint="write a list"
            ) from None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("BAD_TOOL_CALL", f"{where}: `tools` is no list of objects", hint="write a list of schemas")
    return tools

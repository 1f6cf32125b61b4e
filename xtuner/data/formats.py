"""The shapes a row can have, told apart by their keys and turned into a chat or a document.

A file has one shape, that of its first row: a row of another one in its middle is a mistake, not a guess.
"""

from collections.abc import Callable
from typing import Any

from xtuner.data.chat import MESSAGES_HINT, Chat, Document, build_chat, images_refused, kind_of
from xtuner.data.jsonl import parse_string
from xtuner.data.options import FORMATS, FormatName
from xtuner.data.problems import RowError, shown

_MEDIA_KEYS = ("images", "image", "videos", "video", "audios", "audio")

# ShareGPT's speakers; the values are the roles of chats.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def detect_format(value: Any, where: str) -> FormatName:
    """The shape of a row.

    Raises:
        RowError: none of the known ones.
    """
    if isinstance(value, list):
        return "messages"
    if not isinstance(value, dict):
        raise RowError("WRONG_SHAPE", f"{where}: the row is {kind_of(value)}, not a chat", hint=MESSAGES_HINT)
    if "messages" in value or "dialogs" in value:
        return "messages"
    if "conversations" in value:
        return "sharegpt"
    if "instruction" in value and "output" in value:
        return "alpaca"
    if "text" in value:
        return "text"
    raise RowError(
        "WRONG_SHAPE",
        f"{where}: the row has no `messages`, and no other shape that is known ({_keys_said(value)})",
        hint=f"{MESSAGES_HINT}; also ShareGPT, Alpaca and text rows (docs/data.md)",
    )


def _keys_said(row: dict[str, Any]) -> str:
    return f"its keys: {', '.join(key[:40] for key in list(row)[:8]) or 'none'}"


def read_row(value: Any, format: FormatName, where: str) -> Chat | Document:
    """A parsed row as a chat or a document.

    Args:
        value: the row's JSON value.
        format: the shape of the file; `auto` looks at this row alone.
        where: file and line.

    Raises:
        RowError: the row has another shape, or something in it is wrong.
    """
    if isinstance(value, dict):
        media = next((key for key in _MEDIA_KEYS if value.get(key)), None)
        if media:
            raise images_refused(f"{where}: the row has `{media}`")
    return _READERS[detect_format(value, where) if format == "auto" else format](value, where)


def _read_messages(value: Any, where: str) -> Chat:
    if isinstance(value, list):
        return build_chat(value, None, where)
    key = next((key for key in ("messages", "dialogs") if isinstance(value, dict) and key in value), None)
    if key is None:
        raise _other_shape(value, "messages", where)
    return build_chat(value[key], value.get("tools"), where)


def _read_sharegpt(value: Any, where: str) -> Chat:
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list):
        raise _other_shape(value, "sharegpt", where)
    if not turns:
        raise RowError("EMPTY", f"{where}: `conversations` is an empty list", hint=_SHAREGPT_HINT)
    messages = [_sharegpt_message(turn, f"{where}: message {i}") for i, turn in enumerate(turns)]
    if value.get("system"):
        messages.insert(0, {"role": "system", "content": value["system"]})
    return build_chat(messages, value.get("tools"), where)


_SHAREGPT_HINT = 'a ShareGPT row is {"conversations": [{"from": "human", "value": "..."}, ...]}'


def _sharegpt_message(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("BAD_MESSAGE", f"{where} is {kind_of(turn)}", hint=_SHAREGPT_HINT)
    if "role" in turn:
        return turn
    speaker, value = turn.get("from"), turn.get("value")
    rest = {key: inner for key, inner in turn.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {**rest, "role": "assistant", "content": None, "tool_calls": _function_call(value, where)}
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise RowError(
            "UNKNOWN_ROLE" if "from" in turn else "BAD_MESSAGE",
            f"{where} is from {shown(speaker)}" if "from" in turn else f"{where} has no `from`",
            hint=f"known speakers: {', '.join(_SPEAKERS)}, function_call",
        )
    return {**rest, "role": _SPEAKERS[speaker], "content": value}


def _function_call(value: Any, where: str) -> list[Any]:
    try:
        calls = parse_string(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(
            "BAD_TOOL_CALL",
            f"{where}: the function call is not JSON: {error}",
            hint='write {"name": "...", "arguments": {...}}',
        ) from None
    return calls if isinstance(calls, list) else [calls]


def _read_alpaca(value: Any, where: str) -> Chat:
    if not isinstance(value, dict) or not {"instruction", "output"} <= value.keys():
        raise _other_shape(value, "alpaca", where)
    texts = {key: value.get(key) for key in ("system", "instruction", "input", "output")}
    for key, text in texts.items():
        if text is None and key in ("system", "input"):
            texts[key] = ""
        elif not isinstance(text, str):
            raise RowError("BAD_CONTENT", f"{where}: `{key}` is {kind_of(text)}", hint=f"`{key}` is text")
    messages: list[dict[str, Any]] = [{"role": "system", "content": texts["system"]}] if texts["system"] else []
    history = value.get("history") or []
    for pair in history if isinstance(history, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("BAD_MESSAGE", f"{where}: `history` is no list of pairs", hint='[["question", "answer"]]')
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = "\n".join(text for text in (texts["instruction"], texts["input"]) if text)
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": texts["output"]}]
    return build_chat(messages, value.get("tools"), where)


def _read_text(value: Any, where: str) -> Document:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise _other_shape(value, "text", where)
    if not text:
        raise RowError("EMPTY", f"{where}: `text` is empty", hint="take the row out, or give it text")
    return Document(where, text)


def _other_shape(value: Any, expected: str, where: str) -> RowError:
    what = _keys_said(value) if isinstance(value, dict) else f"it is {kind_of(value)}"
    return RowError(
        "WRONG_SHAPE",
        f"{where}: this is no row of the format {expected}, in which the file is read ({what})",
        hint=f"one file holds one format; split the file, or pass --dataset-format ({', '.join(FORMATS)})",
    )


_READERS: dict[str, Callable[[Any, str], Chat | Document]] = {
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "text": _read_text,
}

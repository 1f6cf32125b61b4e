"""One row to one chat: which shapes are accepted, and what is wrong with the others."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from xtuner.data.jsonl import Row
from xtuner.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")

_ROW_HINT = 'a row is [{"role": "user", "content": "..."}, ...] or {"messages": [...]}'

Message = dict[str, str]


@dataclass(frozen=True)
class Chat:
    """The messages of one row, each with a known role and text content."""

    where: str
    messages: list[Message]

    @property
    def assistant_turns(self) -> list[int]:
        """Indices of the messages to train on."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]


def read_chat(row: Row) -> Chat:
    """A bare list of messages or `{"messages": [...]}`.

    Raises:
        DataError: another shape, no messages, an unknown role, content that is not text.
    """
    messages = row.value.get("messages") if isinstance(row.value, dict) else row.value
    if isinstance(row.value, dict) and messages is None:
        keys = ", ".join(list(row.value)[:8]) or "none"
        raise DataError(
            f"{row.where}: the row has no `messages` (its keys: {keys})",
            hint=_ROW_HINT,
        )
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else f"a {type(messages).__name__}"
        raise DataError(
            f"{row.where}: the row is {what}, not a list of messages",
            hint=_ROW_HINT,
        )
    return Chat(row.where, [_read_message(message, f"{row.where}: message {i}") for i, message in enumerate(messages)])


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"{where} is a {type(message).__name__}", hint='a message is {"role": ..., "content": ...}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        nearest = get_close_matches(str(role), ROLES, n=1)
        raise DataError(
            f"{where} has the role {role!r}" if "role" in message else f"{where} has no `role`",
            hint=(f"did you mean {nearest[0]}? " if nearest else "") + f"known roles: {', '.join(ROLES)}",
        )
    if not isinstance(content, str):
        raise DataError(
            f"{where}: `content` is a {type(content).__name__}"
            if "content" in message
            else f"{where} has no `content`",
            hint="`content` is the text of the message, a string",
        )
    return {"role": role, "content": content}

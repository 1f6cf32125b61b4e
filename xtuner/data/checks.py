"""What is odd about a chat, though it can be trained: said with file and line, never mended."""

import itertools
import re
from collections.abc import Iterator

from xtuner.data.chat import Chat
from xtuner.data.problems import Problem, shown


def check_chat(chat: Chat, special_pattern: re.Pattern[str]) -> Iterator[Problem]:
    """The warnings about `chat`; `special_pattern` finds special tokens in text."""
    roles = [message["role"] for message in chat.messages]
    spoken = [role for role in roles if role not in ("system", "developer")]
    if spoken and spoken[0] == "assistant":
        yield _warn("ASSISTANT_FIRST", chat, "the assistant speaks first")
    if twice := next((a for a, b in itertools.pairwise(roles) if a == b and a in ("user", "assistant")), ""):
        yield _warn("SAME_ROLE_TWICE", chat, f"two {twice} messages in a row")
    if len(roles) - len(spoken) > 1:
        yield _warn("SEVERAL_SYSTEM", chat, f"{len(roles) - len(spoken)} system messages")
    yield from _check_tool_ids(chat)
    yield from _check_text(chat, special_pattern)


def _check_tool_ids(chat: Chat) -> Iterator[Problem]:
    calls: set[str] = set()
    for i, message in enumerate(chat.messages):
        calls.update(call["id"] for call in message.get("tool_calls", []) if "id" in call)
        answered = message.get("tool_call_id")
        if message["role"] == "tool" and answered is not None and answered not in calls:
            yield _warn("TOOL_ID_UNMATCHED", chat, f"message {i} answers the call {shown(answered)}, which nobody made")


def _check_text(chat: Chat, special_pattern: re.Pattern[str]) -> Iterator[Problem]:
    for i, message in enumerate(chat.messages):
        content = message["content"]
        if found := special_pattern.search(content):
            yield _warn(
                "SPECIAL_IN_TEXT",
                chat,
                f"message {i} ({message['role']}) has {found.group()} in its text, "
                "which becomes the special token itself",
            )
        if "\0" in content:
            yield _warn("NUL", chat, f"message {i} has a NUL character")


def _warn(code: str, chat: Chat, what: str) -> Problem:
    return Problem(code, f"{chat.where}: {what}")

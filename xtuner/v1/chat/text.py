"""Tokens become text while they come: whole characters only, and reasoning told from the reply."""

from collections.abc import Callable
from typing import NamedTuple

OPEN_TAG, CLOSE_TAG = "<think>", "</think>"
_BAD = "\ufffd"  # what a decoder gives for bytes that are no character, or none yet
_MAX_UNFINISHED = 3  # bytes of a character that is still without its last one


class Piece(NamedTuple):
    """Some text as it came; reasoning pieces hold the tags around it too."""

    text: str
    is_reasoning: bool


class TextStream:
    """Text of one token after the other, the same in sum as the text of all of them together.

    A character of several tokens (Chinese, emoji) is held back until its last one, and never shown in part. What a
    token reads as depends on the tokens before it (a blank at the beginning is dropped), so the last ones that gave
    text are decoded again with the new one; never all of them, which would take longer with every token.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # those that gave the last text, then those that gave none yet
        self._num_shown = 0

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is unfinished."""
        self._ids.append(token_id)
        text = self._new_text()
        if not text or 0 < len(text) - len(text.rstrip(_BAD)) <= _MAX_UNFINISHED:
            return ""
        del self._ids[: self._num_shown]
        self._num_shown = len(self._ids)
        return text

    def finish(self) -> str:
        """What was held back, without the beginning of a character that did not come to its end."""
        text = self._new_text().rstrip(_BAD)
        self._ids, self._num_shown = [], 0
        return text

    def _new_text(self) -> str:
        return self._decode(self._ids)[len(self._decode(self._ids[: self._num_shown])) :]


class ReasoningSplitter:
    """Tells a leading `<think> ... </think>` from the reply behind it.

    Args:
        is_open: the prompt has opened the tag already, as some templates do.
    """

    def __init__(self, *, is_open: bool) -> None:
        self._state = "reasoning" if is_open else "start"
        self._held = ""

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain now; the beginning of a tag is held back."""
        self._held += text
        pieces: list[Piece] = []
        if self._state == "start":
            self._leave_start()
        if self._state == "reasoning":
            end = self._held.find(CLOSE_TAG)
            if end >= 0:
                self._state = "reply"
                pieces.append(self._take(end + len(CLOSE_TAG), is_reasoning=True))
            else:
                pieces.append(self._take(len(self._held) - _len_of_begun_tag(self._held), is_reasoning=True))
        if self._state == "reply":
            pieces.append(self._take(len(self._held), is_reasoning=False))
        return [piece for piece in pieces if piece.text]

    def finish(self) -> list[Piece]:
        """What was held back: no tag came of it."""
        piece = self._take(len(self._held), is_reasoning=self._state == "reasoning")
        return [piece] if piece.text else []

    def _leave_start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(OPEN_TAG):
            self._state = "reasoning"
        elif begun and not OPEN_TAG.startswith(begun):
            self._state = "reply"

    def _take(self, num_chars: int, *, is_reasoning: bool) -> Piece:
        text, self._held = self._held[:num_chars], self._held[num_chars:]
        return Piece(text, is_reasoning)


def _len_of_begun_tag(text: str) -> int:
    """Characters at the end of `text` that may be the beginning of a closing tag."""
    return next((n for n in range(len(CLOSE_TAG) - 1, 0, -1) if text.endswith(CLOSE_TAG[:n])), 0)


def parted(pieces: list[Piece]) -> tuple[str, str]:
    """Reply and reasoning, without tags; a reply behind reasoning without the blank lines between them."""
    reasoning = "".join(piece.text for piece in pieces if piece.is_reasoning)
    reply = "".join(piece.text for piece in pieces if not piece.is_reasoning)
    if not reasoning:
        return reply, ""
    reasoning = reasoning.strip().removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG)
    return reply.lstrip(), reasoning.strip()

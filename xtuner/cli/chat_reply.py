"""One question and its reply, as text that comes piece by piece."""

import sys
from typing import TYPE_CHECKING

from xtuner.cli import console
from xtuner.run.text import visible
from xtuner.v1.chat.text import OPEN_TAG

if TYPE_CHECKING:
    from xtuner.v1.chat.conversation import Conversation
    from xtuner.v1.chat.model import ChatModel, Reply, Sampling
    from xtuner.v1.chat.text import Piece

_DIM, _RESET = "\x1b[2m", "\x1b[0m"


def answer(
    model: "ChatModel", conversation: "Conversation", question: str, sampling: "Sampling", *, streams: bool
) -> "Reply":
    """Ask `question`, show the reply as it comes if `streams`, and remember both.

    Old turns that no longer fit the model's context are dropped, which is said. A question that cannot be asked,
    or that was interrupted before anything was said, is not remembered.

    Raises:
        XTunerError: it cannot be asked.
    """
    turns_before = list(conversation.turns)
    conversation.ask(question)
    try:
        limit = model.history_limit(sampling)
        dropped = 0 if limit is None else conversation.fit(lambda messages: len(model.prompt(messages).ids), limit)
        prompt = model.prompt(conversation.messages())
        model.room(prompt, sampling)
        if dropped:
            turns = "the oldest turn was" if dropped == 1 else f"the {dropped} oldest turns were"
            console.warn(f"{turns} dropped, to fit the model's context of {model.context_length:,} tokens")
        shower = _PieceShower() if streams else None
        reply = model.reply(prompt, sampling, shower.show if shower else lambda piece: None)
    except BaseException:  # Ctrl-C, too
        conversation.turns = turns_before
        raise
    if shower:
        shower.end()
    if reply.stop == "interrupted" and reply.is_empty:
        conversation.undo()
    else:
        conversation.answer(reply.text, reply.reasoning)
    return reply


class _PieceShower:
    """Writes pieces to stdout; reasoning is dim where there is colour, and always stands between its tags."""

    def __init__(self) -> None:
        self._dims = console.wants_colour(sys.stdout)
        self._last_char = ""

    def show(self, piece: "Piece") -> None:
        """Write `piece`, made safe, at once."""
        text = visible(piece.text)
        if not self._last_char:
            text = _with_tag(text) if piece.is_reasoning else text.lstrip("\n")
        if not text:
            return
        self._last_char = text[-1]
        console.stream(f"{_DIM}{text}{_RESET}" if piece.is_reasoning and self._dims else text)

    def end(self) -> None:
        """End the line."""
        if self._last_char != "\n":
            console.stream("\n")


def _with_tag(begun: str) -> str:
    """The beginning of reasoning with its tag, which some templates have put into the prompt."""
    return begun if begun.lstrip().startswith(OPEN_TAG) else f"{OPEN_TAG}\n{begun}"

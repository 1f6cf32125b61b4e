"""What was said so far, and how much of it the model can still be shown."""

from collections.abc import Callable
from dataclasses import dataclass, field

from xtuner.data.chat import Message


@dataclass
class Turn:
    """A question and, once it was given, its answer."""

    question: str
    answer: Message | None = None

    def messages(self) -> list[Message]:
        """As a chat template takes them."""
        return [{"role": "user", "content": self.question}, *([self.answer] if self.answer else [])]


@dataclass
class Conversation:
    """A system text and turns; the last one may wait for its answer.

    Attributes:
        system: shown before everything else; None is no such message.
        turns: oldest first.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """All of it, as a chat template takes it."""
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return first + [message for turn in self.turns for message in turn.messages()]

    def ask(self, question: str) -> None:
        """Add a question that waits for its answer."""
        self.turns.append(Turn(question))

    def answer(self, text: str, reasoning: str = "") -> None:
        """Answer the last question; templates decide themselves what becomes of earlier reasoning."""
        message: Message = {"role": "assistant", "content": text}
        if reasoning:  # templates read one name or the other
            message["reasoning_content"] = message["thinking"] = reasoning
        self.turns[-1].answer = message

    def undo(self) -> Turn | None:
        """Take the last turn back; None when there was none."""
        return self.turns.pop() if self.turns else None

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns.clear()

    def fit(self, count_tokens: Callable[[list[Message]], int], limit: int) -> int:
        """Drop the oldest turns until the rest has at most `limit` tokens; returns how many were dropped.

        The last turn always stays, even where it alone is longer.
        """
        num_turns = len(self.turns)
        while len(self.turns) > 1 and count_tokens(self.messages()) > limit:
            del self.turns[0]
        return num_turns - len(self.turns)

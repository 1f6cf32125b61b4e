"""What happened to the rows, as numbers that add up over chunks and files."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class DataCounts:
    """Nothing is cut, split or left out without standing here.

    A reply is one trained span; it is ended when its last trained token is a special one, as an end of turn is.
    """

    rows: int = 0
    rows_in_error: int = 0
    without_reply: int = 0  # rows with no assistant message to train, left out
    without_target: int = 0  # sequences left out because nothing trainable is left of them
    overlong: int = 0  # sequences longer than the limit
    tokens_cut: int = 0  # of those, lost
    tokens_split: int = 0  # of those, moved into further sequences
    rewritten: int = 0  # sequences beyond one a row, from templates that rewrite earlier turns
    split_at_reply: int = 0  # sequences tokenised in pieces, where a reply begins inside a token
    sequences: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    replies: int = 0
    replies_ended: int = 0
    end_tokens: Counter[str] = field(default_factory=Counter)
    begin_tokens: Counter[int] = field(default_factory=Counter)  # how many BOS tokens stand at the start

    def add(self, other: "DataCounts") -> None:
        """Take over the numbers of other rows."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, item.name, mine + theirs)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; the inverse is `from_json`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DataCounts":
        """The counts that `to_json` gave, after a way through JSON, where all keys are strings."""
        begin = Counter({int(key): count for key, count in value["begin_tokens"].items()})
        return cls(**{**value, "end_tokens": Counter(value["end_tokens"]), "begin_tokens": begin})

    @property
    def trained_share(self) -> float:
        """Trained tokens of all tokens, 0 to 1."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


def total(parts: Iterable[DataCounts]) -> DataCounts:
    """One sum of many counts."""
    whole = DataCounts()
    for part in parts:
        whole.add(part)
    return whole

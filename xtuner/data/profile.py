"""What rows are like, beyond their tokens: the numbers of the health report, which add up over chunks."""

import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from xtuner.data.chat import Chat, Document

# Scripts told apart by blocks of Unicode; all Latin and unlisted text counts as Latin.
_SCRIPTS = {
    "Japanese": "\u3040-\u30ff",
    "Korean": "\uac00-\ud7a3\u1100-\u11ff",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff",
    "Cyrillic": "\u0400-\u04ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
    "Greek": "\u0370-\u03ff",
}
_PATTERNS = {name: re.compile(f"[{block}]") for name, block in _SCRIPTS.items()}
_LETTER_SHARE = 0.1  # of a row's characters: a quoted word does not make its language
_SAMPLE_CHARACTERS = 2_000


@dataclass
class RowProfile:
    """Tallies over rows.

    Attributes:
        turns: number of assistant turns -> rows.
        roles: role -> messages.
        scripts: script of most of a row's text -> rows.
        with_tools, with_reasoning, empty_replies: rows.
        row_tokens: tokens of each row before the length limit.
        row_hashes: 64-bit hash of each row's value, to find duplicates.
    """

    turns: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    with_tools: int = 0
    with_reasoning: int = 0
    empty_replies: int = 0
    row_tokens: "array[int]" = field(default_factory=lambda: array("I"))
    row_hashes: "array[int]" = field(default_factory=lambda: array("Q"))

    def add_value(self, value: Any) -> None:
        """Remember the row's value, whatever the order of its keys."""
        canonical = json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
        self.row_hashes.append(int.from_bytes(blake2b(canonical, digest_size=8).digest(), "little"))

    def add_row(self, row: Chat | Document) -> None:
        """Tally one row that could be read."""
        if isinstance(row, Document):
            self.scripts[script_of(row.text)] += 1
            return
        self.turns[len(row.assistant_turns)] += 1
        self.roles.update(message["role"] for message in row.messages)
        self.with_tools += bool(row.tools) or any("tool_calls" in message for message in row.messages)
        self.with_reasoning += any(
            "reasoning_content" in message or "</think>" in message["content"] for message in row.messages
        )
        self.empty_replies += any(
            not row.messages[turn]["content"].strip() and "tool_calls" not in row.messages[turn]
            for turn in row.assistant_turns
        )
        self.scripts[script_of("".join(message["content"] for message in row.messages))] += 1

    def add_tokens(self, num_tokens: int) -> None:
        """The length of the row, in tokens."""
        self.row_tokens.append(num_tokens)

    def add(self, other: "RowProfile") -> None:
        """Take over the tallies of other rows."""
        self.turns.update(other.turns)
        self.roles.update(other.roles)
        self.scripts.update(other.scripts)
        self.with_tools += other.with_tools
        self.with_reasoning += other.with_reasoning
        self.empty_replies += other.empty_replies
        self.row_tokens.extend(other.row_tokens)
        self.row_hashes.extend(other.row_hashes)

    @property
    def num_duplicates(self) -> int:
        """Rows that say the same as an earlier one."""
        return len(self.row_hashes) - len(set(self.row_hashes))


def script_of(text: str) -> str:
    """The script of `text`: the most frequent of the known ones, judged by its beginning."""
    if text.isascii():
        return "Latin"
    text = text[:_SAMPLE_CHARACTERS]
    counts = {name: len(pattern.findall(text)) for name, pattern in _PATTERNS.items()}
    if counts["Japanese"]:  # kana make Chinese characters Japanese ones
        counts["Japanese"] += counts.pop("Chinese")
    name = max(counts, key=lambda key: counts[key])
    return name if counts[name] > _LETTER_SHARE * len(text) else "Latin"

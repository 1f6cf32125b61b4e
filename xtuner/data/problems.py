"""What can be wrong with a row: one table of codes, and the log that counts them.

An error is a row that cannot be trained as it stands; a warning is one that can, but maybe not as was meant.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from xtuner.errors import DataError

ERRORS: dict[str, str] = {
    "INVALID_JSON": "the line is not one JSON value",
    "CUT_LINE": "the file ends inside a line",
    "NOT_UTF8": "the bytes are not UTF-8",
    "LINE_TOO_LONG": "the line is longer than a row can be",
    "DUPLICATE_KEY": "a key stands twice in one object",
    "NOT_A_NUMBER": "NaN or Infinity, which JSON does not have",
    "LONE_SURROGATE": "half of a surrogate pair",
    "TOO_DEEP": "the JSON is nested too deeply",
    "WRONG_SHAPE": "the row has another shape than its file",
    "EMPTY": "there are no messages, or no text",
    "BAD_MESSAGE": "a message is not an object with a role",
    "UNKNOWN_ROLE": "a role that chats do not have",
    "BAD_CONTENT": "content that is not text",
    "HAS_IMAGE": "images, audio or video, which are not supported",
    "BAD_TOOL_CALL": "tools or tool calls that cannot be read",
    "BAD_LOSS": "a per-message loss switch that cannot be followed",
    "TEMPLATE_REFUSED": "the chat template refuses the messages",
    "MASK_UNPROVED": "which tokens are the reply cannot be proved",
    "TOO_LONG": "longer than --max-length, with --overlong error",
}
WARNINGS: dict[str, str] = {
    "NO_REPLY": "no assistant message to train on; left out",
    "NO_TARGET": "no trained token left within the length limit; left out",
    "NOT_SHOWN": "content that the chat template does not show",
    "SPECIAL_IN_TEXT": "special tokens written in the text of a message",
    "NUL": "a NUL character in the text",
    "ASSISTANT_FIRST": "the assistant speaks first",
    "SAME_ROLE_TWICE": "two user or two assistant messages in a row",
    "SEVERAL_SYSTEM": "more than one system message",
    "TOOL_ID_UNMATCHED": "a tool result without its call",
    "DUPLICATE_ROW": "the same row as an earlier one",
}
EXAMPLES_KEPT = 3


_SHOWN = 60  # characters of a value that a message shows


def shown(value: Any) -> str:
    """A value of a row as it may stand in a message: its beginning, escaped."""
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}..."


class RowError(DataError):
    """A `DataError` about one row, with its code of `ERRORS`."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        assert code in ERRORS, f"{code} is not in the table"
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True)
class Problem:
    """One finding about one row; `message` begins with the file and line."""

    code: str
    message: str
    hint: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the row cannot be trained."""
        return self.code in ERRORS


@dataclass
class ProblemLog:
    """How often each code was met, with the first examples; merges in row order."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)
    first_error: Problem | None = None

    def add(self, problem: Problem, times: int = 1) -> None:
        """Count `problem`, and keep it while there are few of its code."""
        self.counts[problem.code] += times
        kept = self.examples.setdefault(problem.code, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(problem)
        if problem.is_error and self.first_error is None:
            self.first_error = problem

    def merge(self, later: "ProblemLog") -> None:
        """Take over what was found in rows after those of this log."""
        self.counts.update(later.counts)
        for code, problems in later.examples.items():
            kept = self.examples.setdefault(code, [])
            kept += problems[: EXAMPLES_KEPT - len(kept)]
        self.first_error = self.first_error or later.first_error

    @property
    def num_errors(self) -> int:
        """Rows that cannot be trained."""
        return sum(count for code, count in self.counts.items() if code in ERRORS)

    @property
    def num_warnings(self) -> int:
        """Findings about rows that can be trained, or were left out."""
        return sum(count for code, count in self.counts.items() if code in WARNINGS)

    def raise_errors(self, *, is_whole_file: bool) -> None:
        """Raise a `DataError` with the first error, and the number of others by code; nothing without errors."""
        if self.first_error is None:
            return
        others = Counter({code: n for code, n in self.counts.items() if code in ERRORS})
        others[self.first_error.code] -= 1
        message = self.first_error.message
        if total := sum(others.values()):
            kinds = ", ".join(f"{code} {count:,}" for code, count in sorted((+others).items()))
            so_far = "" if is_whole_file else " so far"
            message += f"\nand {total:,} more rows in error{so_far}: {kinds} (xtuner preview lists them)"
        raise DataError(message, hint=self.first_error.hint)

    def to_json(self) -> dict[str, Any]:
        """For the cache and for `--json`."""
        return {
            code: {
                "severity": "error" if code in ERRORS else "warning",
                "count": count,
                "examples": [{"message": p.message, "hint": p.hint} for p in self.examples.get(code, [])],
            }
            for code, count in sorted(self.counts.items())
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ProblemLog":
        """The inverse of `to_json`, but for the order of first errors."""
        log = cls()
        for code, entry in value.items():
            log.counts[code] = entry["count"]
            log.examples[code] = [Problem(code, p["message"], p["hint"]) for p in entry["examples"]]
        return log


def merge_logs(logs: Iterable[ProblemLog]) -> ProblemLog:
    """One log of several, in their order."""
    merged = ProblemLog()
    for log in logs:
        merged.merge(log)
    return merged

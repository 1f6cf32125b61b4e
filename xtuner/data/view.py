"""A row as the model sees it, ready to be shown: pieces of text with what is trained, next to what the row says."""

import json
from dataclasses import dataclass, field

from xtuner.data.chat import Chat, Document
from xtuner.data.checks import check_chat
from xtuner.data.formats import read_row
from xtuner.data.jsonl import parse_line
from xtuner.data.mask import MaskedText, hidden_content
from xtuner.data.options import FormatName
from xtuner.data.problems import Problem, RowError
from xtuner.data.rows import RowPipeline
from xtuner.data.tokenize import TokenSequence


@dataclass(frozen=True)
class Piece:
    """Text of one token, or of several that share a character."""

    text: str
    is_trained: bool
    is_special: bool
    num_tokens: int = 1


@dataclass(frozen=True)
class SequenceView:
    """One training sequence of a row; `is_cut_at` is where the length limit cuts it, in tokens, or None."""

    pieces: list[Piece]
    num_tokens: int
    num_targets: int
    is_cut_at: int | None = None

    def runs(self) -> list[Piece]:
        """Neighbouring pieces joined where they are trained alike and special alike."""
        joined: list[Piece] = []
        for piece in self.pieces:
            last = joined[-1] if joined else None
            if last and (last.is_trained, last.is_special) == (piece.is_trained, piece.is_special):
                joined[-1] = Piece(
                    last.text + piece.text, last.is_trained, last.is_special, last.num_tokens + piece.num_tokens
                )
            else:
                joined.append(piece)
        return joined


@dataclass(frozen=True)
class RowView:
    """One row.

    Attributes:
        where: file and line.
        raw: the row's JSON as it stands in the file.
        messages: role and text of each message; of a document, one of the role `text`.
        sequences: what the model is trained on; empty without a tokenizer, and for a row in error.
        problems: the error that keeps the row out, or what is odd about it.
    """

    where: str
    raw: str
    messages: list[tuple[str, str]] = field(default_factory=list)
    sequences: list[SequenceView] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def view_row(pipeline: RowPipeline, line: bytes, where: str, format: FormatName, *, is_last: bool = False) -> RowView:
    """The view of one row with the model's tokenizer and template; a row in error is a view with the error."""
    raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        done = pipeline.row(line, where, format, is_last=is_last)
    except RowError as error:
        return RowView(where, raw, problems=[Problem(error.code, error.message, error.hint)])
    problems = []
    if isinstance(done.row, Chat):
        problems = list(check_chat(done.row, pipeline.special_pattern))
        problems += [
            Problem("NOT_SHOWN", f"{where}: {what}")
            for what in hidden_content(done.row, done.texts, pipeline.spec.options.mask_policy)
        ]
        if not done.texts:
            problems.append(Problem("NO_REPLY", f"{where}: no assistant message to train"))
    sequences = [
        _view_sequence(pipeline, masked, sequence) for masked, sequence in zip(done.texts, done.sequences, strict=True)
    ]
    return RowView(where, raw, messages_of(done.row), sequences, problems)


def view_raw(line: bytes, where: str, format: FormatName, *, is_last: bool = False) -> RowView:
    """The view of one row without a tokenizer."""
    raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        row = read_row(parse_line(line, where, is_last=is_last), format, where)
    except RowError as error:
        return RowView(where, raw, problems=[Problem(error.code, error.message, error.hint)])
    return RowView(where, raw, messages_of(row))


def messages_of(row: Chat | Document) -> list[tuple[str, str]]:
    """Role and text of each message, with reasoning and tool calls written out."""
    if isinstance(row, Document):
        return [("text", row.text)]
    return [(message["role"], _message_text(message)) for message in row.messages]


def _message_text(message: dict[str, object]) -> str:
    parts = []
    if reasoning := message.get("reasoning_content"):
        parts.append(f"(reasoning) {reasoning}")
    if message["content"]:
        parts.append(str(message["content"]))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call["function"]
        parts.append(f"(calls) {function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})")
    return "\n".join(parts)


def _view_sequence(pipeline: RowPipeline, masked: MaskedText, sequence: TokenSequence) -> SequenceView:
    limit = pipeline.max_tokens
    return SequenceView(
        _pieces(pipeline, masked, sequence),
        len(sequence),
        sequence.num_targets,
        limit if len(sequence) > limit else None,
    )


def _pieces(pipeline: RowPipeline, masked: MaskedText, sequence: TokenSequence) -> list[Piece]:
    tokenizer, special_ids = pipeline.files.tokenizer, pipeline.tokenizer.special_ids
    ids, trained = sequence.ids.tolist(), sequence.is_trained.tolist()
    encoding = tokenizer.encode(masked.text, add_special_tokens=False)
    if encoding.ids != ids:  # a document's beginning and end, or a text that was tokenised in pieces
        return [
            Piece(tokenizer.decode([token], skip_special_tokens=False), is_trained, token in special_ids)
            for token, is_trained in zip(ids, trained, strict=True)
        ]
    pieces: list[Piece] = []
    shown = 0  # characters of the text that stand in `pieces`
    for token, is_trained, (_, end) in zip(ids, trained, encoding.offsets, strict=True):
        if end <= shown and pieces:  # the rest of a character that the token before began
            last = pieces[-1]
            pieces[-1] = Piece(last.text, last.is_trained, last.is_special, last.num_tokens + 1)
            continue
        pieces.append(Piece(masked.text[shown:end], is_trained, token in special_ids))
        shown = end
    return pieces

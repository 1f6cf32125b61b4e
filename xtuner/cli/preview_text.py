"""`xtuner preview` in text: rows with their trained parts marked, and the health report.

On a terminal with colour trained text is green, bold and underlined; elsewhere it stands between `⟪` and `⟫`, so
that no colour is needed to read it.
"""

import json
import shutil
import sys
from collections.abc import Iterator

from xtuner.cli import console
from xtuner.data.health import Health, PackForecast
from xtuner.data.histogram import bars
from xtuner.data.problems import ERRORS, WARNINGS
from xtuner.data.report import exceptions, loss_truth, verdicts
from xtuner.data.view import Piece, RowView, SequenceView
from xtuner.run.text import visible

_TRAINED, _SPECIAL, _DIM, _BOLD = "\x1b[1;4;32m", "\x1b[2;36m", "\x1b[2m", "\x1b[1m"
_RESET = "\x1b[0m"
_OPEN, _CLOSE, _TOKEN_END = "⟪", "⟫", "¦"
_MAX_RAW = 1_500  # characters of a raw row; the rest can be seen with `--json` or an editor
_LABEL = 13


def show_view(view: RowView, *, has_model: bool, tokens: bool) -> None:
    """Print one row: where it is, what is odd, the row itself, and what the model sees of it."""
    colour = console.wants_colour(sys.stdout)
    lines = [_paint(f"── {visible(view.where)} {_sizes(view)}".rstrip(), _BOLD, colour)]
    for problem in view.problems:
        kind = "error" if problem.is_error else "warning"
        lines.append(f"{kind} {problem.code}: {visible(problem.message)}")
        lines += [f"  hint: {visible(problem.hint)}"] if problem.hint else []
    if has_model and view.sequences:
        lines.append(_paint(f"row: {visible(_raw(view))}", _DIM, colour))
        for number, sequence in enumerate(view.sequences, start=1):
            if len(view.sequences) > 1:
                lines.append(_paint(f"sequence {number} of {len(view.sequences)}", _DIM, colour))
            lines.append(_marked(sequence, tokens=tokens, colour=colour))
    elif view.messages:
        lines += [f"{_paint(role, _BOLD, colour)}: {visible(text)}" for role, text in view.messages]
    else:
        lines.append(visible(_raw(view)))
    console.painted("\n".join([*lines, ""]))


def _sizes(view: RowView) -> str:
    if not view.sequences:
        return ""
    num_tokens = sum(sequence.num_tokens for sequence in view.sequences)
    num_trained = sum(sequence.num_targets for sequence in view.sequences)
    return f"({num_tokens:,} tokens, {num_trained:,} trained)"


def _raw(view: RowView) -> str:
    try:  # escapes written out, so that a person can read it
        text = json.dumps(json.loads(view.raw), ensure_ascii=False)
    except (ValueError, RecursionError):
        text = view.raw
    return text if len(text) <= _MAX_RAW else f"{text[:_MAX_RAW]} ... ({len(text) - _MAX_RAW:,} characters more)"


def _marked(sequence: SequenceView, *, tokens: bool, colour: bool) -> str:
    """The sequence with trained text marked; the whole marks of a run go around it, not around each token."""
    parts: list[str] = []
    num_tokens, was_cut = 0, False
    is_whole = not tokens and sequence.is_cut_at is None
    for run in _trained_runs(sequence.runs() if is_whole else sequence.pieces):
        inner = []
        for piece in run:
            if sequence.is_cut_at is not None and num_tokens >= sequence.is_cut_at and not was_cut:
                inner.append(f"\n── cut here, at {sequence.is_cut_at:,} tokens ──\n")
                was_cut = True
            num_tokens += piece.num_tokens
            text = visible(piece.text).replace("\n", "⏎\n" if tokens else "\n")
            style = _TRAINED if piece.is_trained else _SPECIAL if piece.is_special else ""
            inner.append(_paint(text, style, colour) + (_TOKEN_END if tokens else ""))
        is_marked = run[0].is_trained and not colour
        parts.append(f"{_OPEN}{''.join(inner)}{_CLOSE}" if is_marked else "".join(inner))
    return "".join(parts).rstrip("\n")


def _trained_runs(pieces: list[Piece]) -> Iterator[list[Piece]]:
    run: list[Piece] = []
    for piece in pieces:
        if run and run[-1].is_trained != piece.is_trained:
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _paint(text: str, style: str, colour: bool) -> str:
    if not (colour and style):
        return text
    # Each line by itself: a pager shows single lines, and an underline would run to the edge of the terminal.
    return "\n".join(f"{style}{line}{_RESET}" if line else "" for line in text.split("\n"))


def report_lines(
    health: Health, forecast: PackForecast | None, *, limit: int | None, vocab_size: int | None, template_changes: int
) -> list[str]:
    """The health report; `limit` is the longest row in tokens, None without a tokenizer."""
    lines = [*_about_rows(health), *_about_chats(health)]
    if limit is not None:
        lines += [*_about_tokens(health, limit), *_about_training(health, limit, vocab_size)]
        if template_changes:
            lines.append(_row("template", f"differs from the model's own in {template_changes:,} lines"))
    if forecast is not None:
        lines.append(
            _row(
                "packing",
                f"{_counted(forecast.num_packs, 'pack')}, {100 * forecast.waste:.1f} % of their room empty; "
                f"{_counted(forecast.steps_per_epoch, 'step')} an epoch",
            )
        )
    return [*lines, *_about_problems(health), "", _verdict(health)]


def _about_rows(health: Health) -> Iterator[str]:
    for file in health.files:
        said = "".join(f"; {text}" for text in file.notes.sentences())
        rows = file.notes.num_lines - file.notes.num_blank
        yield _row("file", f"{file.path}: {rows:,} rows in the format {file.format}{said}")
    if health.every > 1:
        yield _row(
            "sample",
            f"{health.counts.rows:,} of {health.num_rows:,} rows, every {health.every}th block; --all examines all",
        )


def _about_chats(health: Health) -> Iterator[str]:
    profile = health.profile
    if profile.roles:
        yield _row("messages", ", ".join(f"{role} {count:,}" for role, count in profile.roles.most_common()))
        replies = {turns if turns < 5 else 5: 0 for turns in profile.turns}
        for turns, rows in profile.turns.items():
            replies[min(turns, 5)] += rows
        counted = ", ".join(f"{turns}{'+' if turns == 5 else ''}: {replies[turns]:,}" for turns in sorted(replies))
        yield _row("replies", f"rows with {counted}")
    if profile.scripts:
        yield _row("languages", ", ".join(f"{name} {count:,}" for name, count in profile.scripts.most_common()))
    special = {
        "with tools": profile.with_tools,
        "with reasoning": profile.with_reasoning,
        "with an empty reply": profile.empty_replies,
        "duplicates": profile.num_duplicates,
    }
    if said := ", ".join(f"{count:,} {what}" for what, count in special.items() if count):
        yield _row("rows", said)


def _about_tokens(health: Health, limit: int) -> Iterator[str]:
    percentiles = health.token_percentiles()
    if not percentiles:
        return
    yield _row("tokens a row", ", ".join(f"{name} {value:,}" for name, value in percentiles.items()))
    width = max(10, min(48, shutil.get_terminal_size().columns - 36))
    is_ascii = "utf" not in (sys.stdout.encoding or "").lower()
    for line in bars(health.profile.row_tokens, limit, width, is_ascii=is_ascii):
        yield f"  {line}"
    if percentiles["max"] > limit:
        yield f"  (> reaches beyond the limit of {limit:,} tokens)"


def _about_training(health: Health, limit: int, vocab_size: int | None) -> Iterator[str]:
    yield _row("training", loss_truth(health.counts, vocab_size))
    for text in (*exceptions(health.counts, limit), *verdicts(health.counts)):
        yield _row("", text)


def _about_problems(health: Health) -> Iterator[str]:
    for severity, table in (("error", ERRORS), ("warning", WARNINGS)):
        for code in table:
            count = health.problems.counts.get(code, 0)
            if not count:
                continue
            yield f"\n{severity} {code}: {_counted(count, 'row')}: {table[code]}"
            examples = health.problems.examples.get(code, [])
            yield from (f"  {problem.message}" for problem in examples)
            if examples and examples[0].hint:
                yield f"  hint: {examples[0].hint}"


def _verdict(health: Health) -> str:
    errors, warnings = health.problems.num_errors, health.problems.num_warnings
    looked_at = f"{health.counts.rows:,} rows"
    if errors:
        return f"FAIL: {errors:,} of {looked_at} are in error" + (f", {warnings:,} warnings" if warnings else "")
    return f"WARN: {looked_at} can be read, {warnings:,} warnings" if warnings else f"OK: {looked_at}, nothing odd"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}} {text}"

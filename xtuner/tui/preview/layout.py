"""A row as lines of so many cells, each run with the names of its looks; knows no widget, and no colour."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from xtuner.data.jsonl import parse_line
from xtuner.data.problems import RowError
from xtuner.data.view import Piece, RowView, SequenceView
from xtuner.errors import XTunerError
from xtuner.run.text import visible
from xtuner.tui.preview.wrap import TOKEN_END, Line, Run, head, wrap

# Names of looks; each is a component class in app.tcss.
LOOKS = frozenset(
    {"trained", "special", "beyond", "shade", "mark", "match", "rule", "error", "warning", "hint", "role", "key"}
)
GUTTER = "▌ "
MAX_CHARS = 200_000  # of one row on the screen; the rest is counted, not shown
_NARROWEST = 4

_KEY = re.compile(r'^( *)("(?:[^"\\]|\\.)*")(?=: )')


@dataclass(frozen=True)
class ViewOptions:
    """How a row is shown.

    Attributes:
        shows_tokens: whether to mark where each token ends.
        shows_raw: whether to show the row's JSON and not what the model sees.
        sought: text to mark, or nothing.
    """

    shows_tokens: bool = False
    shows_raw: bool = False
    sought: str = ""


@dataclass(frozen=True)
class Layout:
    """Lines as they stand on the screen; `first_match` is the first with what was sought, or None."""

    lines: list[Line]
    first_match: int | None = None


def lay_out(view: RowView, options: ViewOptions, width: int, *, failure: XTunerError | None = None) -> Layout:
    """The row in lines of `width` cells, the gutter among them; `failure` is why it has no tokens."""
    room = max(_NARROWEST, width - len(GUTTER))
    pattern = re.compile(re.escape(visible(options.sought)), re.IGNORECASE) if options.sought else None
    lines: list[Line] = []
    first_match = None
    for line in _limited(_logical_lines(view, options, room, failure)):
        marked = line if pattern is None else _mark_matches(line, pattern)
        for part in wrap(marked, room):
            if first_match is None and marked is not line and any("match" in run.kinds for run in part):
                first_match = len(lines)
            lines.append(part)
    return Layout(lines, first_match)


def is_trained(line: Line) -> bool:
    """Whether any of the line is trained."""
    return any("trained" in run.kinds for run in line)


def note(text: str) -> Layout:
    """A layout that says one thing."""
    return Layout([[Run(visible(text), ("hint",))]])


def _logical_lines(view: RowView, options: ViewOptions, width: int, failure: XTunerError | None) -> Iterator[Line]:
    if failure is not None:
        yield from _said_lines("error", "✗ error: ", failure.message, failure.hint)
    for problem in view.problems:
        look = "error" if problem.is_error else "warning"
        sign = "✗" if problem.is_error else "!"
        yield from _said_lines(look, f"{sign} {look} {problem.code}: ", problem.message, problem.hint)
    if view.problems or failure is not None:
        yield []
    if options.shows_raw or not (view.sequences or view.messages):
        yield from _raw_lines(view.raw)
    elif view.sequences:
        yield from _sequences(view.sequences, options, width)
    else:
        for role, text in view.messages:
            yield [Run(visible(role), ("role",))]
            yield from _split([Run(_plain(text))])
            yield []


def _said_lines(look: str, begin: str, message: str, hint: str) -> Iterator[Line]:
    yield from _split([Run(begin, (look,)), Run(_plain(message))])
    if hint:
        yield from _split([Run(f"  hint: {_plain(hint)}", ("hint",))])


def _raw_lines(raw: str) -> Iterator[Line]:
    try:  # only where JSON says the same to every reader: a key that stands twice must be seen twice
        text = json.dumps(parse_line(raw.encode(), ""), ensure_ascii=False, indent=2)
    except (RowError, UnicodeEncodeError):
        text = raw
    for line in _plain(text).split("\n"):
        key = _KEY.match(line)
        yield [Run(line[: key.end()], ("key",)), Run(line[key.end() :])] if key else [Run(line)]


def _sequences(sequences: list[SequenceView], options: ViewOptions, width: int) -> Iterator[Line]:
    for number, sequence in enumerate(sequences, start=1):
        if len(sequences) > 1:
            yield _rule(f"sequence {number} of {len(sequences)}", width)
        kept, beyond = split_at_limit(sequence)
        yield from _piece_lines(kept, options.shows_tokens, is_beyond=False)
        if sequence.is_cut_at is not None:
            yield _rule(f"cut here, at {sequence.is_cut_at:,} tokens", width)
            yield from _piece_lines(beyond, options.shows_tokens, is_beyond=True)
        if number < len(sequences):
            yield []


def split_at_limit(sequence: SequenceView) -> tuple[list[Piece], list[Piece]]:
    """The pieces within the length limit, and those beyond."""
    if sequence.is_cut_at is None:
        return sequence.pieces, []
    num_tokens = 0
    for place, piece in enumerate(sequence.pieces):
        if num_tokens >= sequence.is_cut_at:
            return sequence.pieces[:place], sequence.pieces[place:]
        num_tokens += piece.num_tokens
    return sequence.pieces, []


def _piece_lines(pieces: list[Piece], shows_tokens: bool, *, is_beyond: bool) -> Iterator[Line]:
    if shows_tokens:
        runs = list(_token_runs(pieces, is_beyond))
    else:
        runs = [
            Run("".join(run.text for run in same), kinds)
            for kinds, same in groupby((Run(_plain(p.text), _looks(p, is_beyond)) for p in pieces), lambda run: run[1])
        ]
    yield from _split(runs)


def _token_runs(pieces: list[Piece], is_beyond: bool) -> Iterator[Run]:
    """Every second token shaded, and a thin mark after each."""
    for number, piece in enumerate(pieces):
        looks = _looks(piece, is_beyond) + (("shade",) if number % 2 else ())
        body = piece.text.rstrip("\n")
        tail = "⏎" * (len(piece.text) - len(body))
        text = _plain(body, tab="⇥   ").replace("\n", "⏎\n")
        yield Run(text + tail, looks)
        yield Run(TOKEN_END + "\n" * len(tail), ("mark",))


def _looks(piece: Piece, is_beyond: bool) -> tuple[str, ...]:
    """Beyond the limit nothing is trained, whatever the mask says."""
    special = ("special",) if piece.is_special else ()
    if is_beyond:
        return (*special, "beyond")
    return (*special, "trained") if piece.is_trained else special


def _plain(text: str, tab: str = "    ") -> str:
    """Safe to show; tabs become cells, which they are not."""
    return visible(text).replace("\t", tab)


def _rule(title: str, width: int) -> Line:
    text = f"── {title} "
    return [Run(text + "─" * max(2, width - len(text)), ("rule",))]


def _split(runs: list[Run]) -> Iterator[Line]:
    """Lines of the text, at its line ends."""
    line: Line = []
    for run in runs:
        first, *others = run.text.split("\n")
        line.append(Run(first, run.kinds))
        for text in others:
            yield _without_empty(line)
            line = [Run(text, run.kinds)]
    yield _without_empty(line)


def _without_empty(line: Line) -> Line:
    """An empty line keeps its first run: whether it is trained can be seen in the gutter."""
    return [run for run in line if run.text] or line[:1]


def _limited(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines up to `MAX_CHARS`, then how much more there is."""
    room, hidden = MAX_CHARS, 0
    for line in lines:
        size = sum(len(run.text) for run in line)
        if size <= room and not hidden:
            yield line
        elif room:
            yield head(line, room)
        hidden += max(0, size - room)
        room = max(0, room - size)
    if hidden:
        yield [Run(f"── {hidden:,} characters more are not shown here ──", ("rule",))]


def _mark_matches(line: Line, pattern: re.Pattern[str]) -> Line:
    """The line with what is sought as runs of their own; marks between tokens are no part of the text."""
    text = "".join(run.text for run in line if "mark" not in run.kinds)
    bounds = [place for match in pattern.finditer(text) for place in match.span() if match.group()]
    if not bounds:
        return line
    marked: Line = []
    position = passed = 0  # characters of the text, and bounds, that lie behind
    for run in line:
        end = position if "mark" in run.kinds else position + len(run.text)
        begin = position
        while passed < len(bounds) and bounds[passed] < end:
            marked.append(_part(run, begin - position, bounds[passed] - position, passed))
            begin, passed = bounds[passed], passed + 1
        marked.append(_part(run, begin - position, len(run.text), passed))
        position = end
    return _without_empty(marked)


def _part(run: Run, begin: int, end: int, num_bounds: int) -> Run:
    """Between an odd and an even bound lies what is sought."""
    is_match = num_bounds % 2 == 1 and "mark" not in run.kinds
    return Run(run.text[begin:end], (*run.kinds, "match") if is_match else run.kinds)

"""The data of a run in words: a few lines for its log, exceptions only where there are any."""

import math
from collections.abc import Iterator

from xtuner.data.counts import DataCounts
from xtuner.data.prepared import PreparedData

_MAX_FILES_SAID = 8


def report_lines(data: PreparedData, row_limit: int, vocab_size: int | None = None) -> list[str]:
    """What the data is, what was done to it and what is odd, one line each."""
    counts = data.counts
    lines = [*_file_lines(data), f"data: {loss_truth(counts, vocab_size)}"]
    lines += [f"data: {text}" for text in exceptions(counts, row_limit)]
    lines += [f"data: {text}" for text in verdicts(counts)]
    problems = data.problems
    for code, count in problems.counts.items():
        example = problems.examples[code][0].message
        lines.append(f"data: warning: {code} {count:,} times, first at {example}")
    return lines


def loss_truth(counts: DataCounts, vocab_size: int | None) -> str:
    """How much is trained, and where the loss of a model that knows nothing starts: the entropy of a uniform guess."""
    line = (
        f"{counts.rows:,} rows; trained tokens {short(counts.trained_tokens)} of {short(counts.tokens)} "
        f"({100 * counts.trained_share:.0f} %)"
    )
    return f"{line}; a random model starts at ln(vocab) = {math.log(vocab_size):.2f}" if vocab_size else line


def exceptions(counts: DataCounts, row_limit: int) -> Iterator[str]:
    """What was cut, moved, left out or added."""
    said = [
        (
            counts.overlong if counts.tokens_cut else 0,
            f"cut at {row_limit:,} tokens, {counts.tokens_cut:,} tokens lost",
        ),
        (counts.overlong if counts.tokens_split else 0, f"split into pieces of {row_limit:,} tokens"),
        (counts.without_reply, "left out: no assistant message to train"),
        (counts.without_target, "left out: no trainable token within the row limit"),
        (counts.rewritten, "added: the chat template rewrites earlier turns, so replies train apart"),
        (counts.split_at_reply, "tokenised piece by piece: a reply begins inside a token of its prompt"),
    ]
    return (f"{count:,} {what}" for count, what in said if count)


def verdicts(counts: DataCounts) -> Iterator[str]:
    """Whether the model can learn to stop, and whether texts begin as they should."""
    if counts.replies:
        names = ", ".join(name for name, _ in counts.end_tokens.most_common(3))
        if counts.replies_ended == counts.replies:
            yield f"end-of-turn token trained: yes ({names}, all {counts.replies:,} replies)"
        elif counts.replies_ended:
            yield f"end-of-turn token trained: in {counts.replies_ended:,} of {counts.replies:,} replies ({names})"
        else:
            yield "end-of-turn token trained: NO, no reply ends in a special token; the model may never stop"
    if counts.begin_tokens:
        doubled = sum(count for number, count in counts.begin_tokens.items() if number > 1)
        missing = counts.begin_tokens[0]
        if doubled:
            yield f"beginning-of-sequence token: TWICE in {doubled:,} sequences; the chat template and the text add one"
        elif missing:
            yield f"beginning-of-sequence token: missing in {missing:,} sequences; the chat template adds none"
        else:
            yield "beginning-of-sequence token: once in every sequence"


def _file_lines(data: PreparedData) -> Iterator[str]:
    for number, (store, ratio) in enumerate(zip(data.stores, data.ratios, strict=True)):
        if number == _MAX_FILES_SAID:
            yield f"data: and {len(data.stores) - number:,} more files"
            return
        notes = store.notes
        times = "" if ratio == 1 else f", used {ratio:g} times"
        said = "".join(f"; {text}" for text in notes["said"])
        yield f"data: {notes['path']}: {store.counts.rows:,} rows in the format {notes['format']}{times}{said}"


def short(number: float) -> str:
    """`number` with three digits and a unit: 3.1 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{number:.0f}"

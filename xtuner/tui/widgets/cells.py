"""Text measured in terminal cells: one line, cut, padded, the same width on every terminal."""

import re

from rich.cells import cell_len, get_character_cell_size

from xtuner.run.text import visible

ELLIPSIS = "…"

# Joiners, variation selectors and other invisible characters: each terminal gives what stands around them another
# width, and columns would not line up. Without them every character has its own width.
_INVISIBLE = re.compile("[\u00ad\u180b-\u180e\u200b-\u200d\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]")
# Printable ASCII, lines and blocks, braille: nothing to do, which is what most rows of a screen are made of.
_PLAIN = re.compile("[ -~\u2500-\u25ff\u2800-\u28ff]*")
_LINE_BREAKS = str.maketrans({"\n": "⏎", "\t": "  "})
# Marks above and below a letter take no cell: a line of them alone would never be full. Four are more than any
# language stacks.
_STACKED_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_CHARS_PER_CELL = 8  # read of a text that is to fill a cell; what follows cannot be seen


def one_line(text: str) -> str:
    """`text` safe to show in one line: controls as escapes, line ends as `⏎`, nothing that has no fixed width."""
    if _PLAIN.fullmatch(text):
        return text
    text = _INVISIBLE.sub("", visible(text).translate(_LINE_BREAKS))
    return _STACKED_MARKS.sub(r"\1", text)


def num_cells(text: str) -> int:
    """Cells that a text of `one_line` takes."""
    return len(text) if text.isascii() else cell_len(text)


def crop(text: str, width: int) -> str:
    """A text of `one_line` in at most `width` cells, with an ellipsis where it is cut."""
    if width <= 0:
        return ""
    if len(text) <= width and num_cells(text) <= width:
        return text
    if text.isascii():
        return text[:width] if len(text) <= width else text[: width - 1] + ELLIPSIS
    room, cells, end = width - 1, 0, 0  # `end`: what fits beside an ellipsis
    for place, character in enumerate(text):
        cells += get_character_cell_size(character)
        if cells <= room:
            end = place + 1
        elif cells > width:
            return text[:end] + ELLIPSIS
    return text


def crop_left(text: str, width: int) -> str:
    """A text of `one_line` in at most `width` cells, cut at its beginning: of a path, the end says more."""
    return text if num_cells(text) <= width else crop(text[::-1], width)[::-1]


def fit(text: str, width: int, *, is_right: bool = False) -> str:
    """Any text in exactly `width` cells: made safe, cut, and padded at its end, or at its beginning if `is_right`."""
    if width <= 0:
        return ""
    text = crop(one_line(text[: width * _CHARS_PER_CELL + 64]), width)
    padding = " " * (width - num_cells(text))
    return padding + text if is_right else text + padding

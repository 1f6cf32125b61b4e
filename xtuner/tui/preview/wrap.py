"""Runs of text broken into lines of so many cells: Chinese characters take two, and may be broken between."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.cells import cell_len, get_character_cell_size

TOKEN_END = "¦"

_EMOJI_VARIANT = "\ufe0f"
_NO_BEGIN = frozenset("，。、；：？！）】》」』”’…" + TOKEN_END)  # no line begins with these


class Run(NamedTuple):
    """Text that looks the same throughout; `kinds` are names of looks, added to each other."""

    text: str
    kinds: tuple[str, ...] = ()


Line = list[Run]


def wrap(line: Line, width: int) -> Iterator[Line]:
    """The line in pieces of at most `width` cells, broken after spaces or beside wide characters where it can be."""
    text = "".join(run.text for run in line)
    if not text:
        yield line
        return
    begin = 0
    taker = _Taker(line)
    for end in _breaks(text, width):
        yield taker.take(end - begin)
        begin = end


class _Taker:
    """Takes runs off the front of a line, so many characters at a time."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._place = self._offset = 0

    def take(self, num_chars: int) -> Line:
        taken: Line = []
        while num_chars > 0 and self._place < len(self._line):
            text, kinds = self._line[self._place]
            part = text[self._offset : self._offset + num_chars]
            taken.append(Run(part, kinds))
            num_chars -= len(part)
            self._offset += len(part)
            if self._offset >= len(text):
                self._place, self._offset = self._place + 1, 0
        return taken


def head(line: Line, num_chars: int) -> Line:
    """The first characters of the line."""
    return _Taker(line).take(num_chars)


def crop(text: str, width: int) -> str:
    """`text` in at most `width` cells, with an ellipsis where it is cut."""
    if cell_len(text) <= width:
        return text
    kept, cells = [], 1
    for character in text:
        cells += _cells(character)
        if cells > width:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def crop_left(text: str, width: int) -> str:
    """`text` in at most `width` cells, cut at its beginning: of a path, the end says more."""
    if cell_len(text) <= width:
        return text
    return crop(text[::-1], width)[::-1]


def _breaks(text: str, width: int) -> Iterator[int]:
    """Where each line ends, as characters of `text`; an empty text is one line."""
    if text.isascii():
        yield from _ascii_breaks(text, width)
        return
    begin = cells = 0
    chance = 0  # the last place where a break is good
    before, was_wide = "", False  # the character before, marks between tokens left out
    for place, character in enumerate(text):
        size = _cells(character)
        if size and character not in _NO_BEGIN and (size == 2 or was_wide or before == " "):
            chance = place
        while cells + size > width and size and place > begin:  # twice where the first break frees one cell alone
            begin = chance if chance > begin else place
            yield begin
            cells = sum(map(_cells, text[begin:place]))
        cells += size
        if size and character != TOKEN_END:
            before, was_wide = character, size == 2
    yield len(text)


def _ascii_breaks(text: str, width: int) -> Iterator[int]:
    begin = 0
    while len(text) - begin > width:
        space = text.rfind(" ", begin, begin + width)
        begin = space + 1 if space >= begin else begin + width
        yield begin
    yield len(text)


def _cells(character: str) -> int:
    """At least what the character takes: what joins others may make them narrower, never wider."""
    return 1 if character == _EMOJI_VARIANT else get_character_cell_size(character)

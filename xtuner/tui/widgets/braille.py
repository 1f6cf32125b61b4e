"""Curves as text: a column of pixels is one integer, and cells of pixels are looked up in a table.

Bit 0 of a column is its lowest pixel. Spans, joins and overlays are then a few integer operations a column, however
many pixels it has: no loop over pixels, and no loop over samples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class GlyphSet(NamedTuple):
    """How pixels become characters: `table` is indexed by the bits of a cell, its columns from left to right."""

    name: str
    dots_wide: int
    dots_high: int
    table: str

    @property
    def is_ascii(self) -> bool:
        """Whether nothing but ASCII may be drawn."""
        return self.name == "ascii"


Span = tuple[int, int]  # lowest and highest pixel, both included

# Unicode numbers the dots of a braille cell down its columns, and the eighth row was added later.
_BRAILLE_LEFT = (0x40, 0x04, 0x02, 0x01)  # from the lowest
_BRAILLE_RIGHT = (0x80, 0x20, 0x10, 0x08)


def _braille(bits: int) -> str:
    dots = sum(dot for place, dot in enumerate(_BRAILLE_LEFT + _BRAILLE_RIGHT) if bits >> place & 1)
    return chr(0x2800 + dots) if dots else " "


BRAILLE = GlyphSet("braille", 2, 4, "".join(map(_braille, range(256))))
# Bits: lower left, upper left, lower right, upper right.
BLOCK = GlyphSet("block", 2, 2, " ▖▘▌▗▄▚▙▝▞▀▛▐▟▜█")
ASCII = GlyphSet("ascii", 1, 2, " .':")

GLYPH_SETS: Mapping[str, GlyphSet] = {glyphs.name: glyphs for glyphs in (BRAILLE, BLOCK, ASCII)}


def glyphs_for(environ: Mapping[str, str]) -> GlyphSet:
    """What a terminal can be expected to show: the Linux console has no braille, a locale without UTF-8 nothing."""
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "UTF-8"
    if "utf8" not in locale.lower().replace("-", ""):
        return ASCII
    return BLOCK if environ.get("TERM") == "linux" else BRAILLE


def mask_of(span: Span) -> int:
    """A column with the pixels of `span` set."""
    low, high = span
    return (1 << (high + 1)) - (1 << low)


def join(spans: Sequence[Span | None]) -> list[Span | None]:
    """Spans made longer where they do not touch the one before, so that a curve has no holes; None stays a gap."""
    joined: list[Span | None] = []
    before: Span | None = None
    for span in spans:
        if span is not None and before is not None:
            low, high = span
            if low > before[1] + 1:
                joined.append((before[1] + 1, high))
            elif high < before[0] - 1:
                joined.append((low, before[0] - 1))
            else:
                joined.append(span)
        else:
            joined.append(span)
        before = span
    return joined


def dashed(spans: Sequence[Span | None], pattern: str) -> list[int]:
    """Columns of a curve drawn as `pattern` (`1` on, `0` off, repeated).

    Only level parts are broken up: what is steep, or stands alone, is what one must not miss.
    """
    masks = []
    for place, span in enumerate(spans):
        if span is None:
            masks.append(0)
            continue
        is_on = pattern[place % len(pattern)] == "1"
        masks.append(mask_of(span) if is_on or not _is_level(spans, place) else 0)
    return masks


def _is_level(spans: Sequence[Span | None], place: int) -> bool:
    span = spans[place]
    before = spans[place - 1] if place > 0 else None
    after = spans[place + 1] if place + 1 < len(spans) else None
    if span is None or before is None or after is None:
        return False
    low, high = span
    return high - low <= 1 and abs(before[1] - high) <= 1 and abs(after[0] - low) <= 1


class Layer(NamedTuple):
    """Columns of pixels in one look."""

    masks: Sequence[int]
    look: str


class Canvas:
    """Cells of `width` and `height`, drawn upon in layers; what is drawn last is seen.

    Cells are kept by columns, `characters[x][y]` with y from the top, as curves are.
    """

    def __init__(self, width: int, height: int, glyphs: GlyphSet) -> None:
        self._glyphs = glyphs
        self._height = height
        self.characters = [[" "] * height for _ in range(width)]
        self.looks = [[""] * height for _ in range(width)]

    def draw(self, layers: Sequence[Layer]) -> None:
        """Draw layers that share their cells: dots of all are seen, in the look of the last.

        A cell that has dots of these layers shows nothing of what was drawn before. In a column of cells, a layer
        has no hole: spans that touch have none.
        """
        wide, high, table = self._glyphs.dots_wide, self._glyphs.dots_high, self._glyphs.table
        cell_bits, height = (1 << high) - 1, self._height
        for x, (characters, looks) in enumerate(zip(self.characters, self.looks, strict=True)):
            left = right = 0
            for masks, look in layers:
                layer_left, layer_right = masks[x * wide], masks[x * wide + wide - 1]
                covered = layer_left | layer_right
                if covered:
                    left, right = left | layer_left, right | layer_right
                    begin = ((covered & -covered).bit_length() - 1) // high  # of its lowest and its highest dot
                    end = (covered.bit_length() - 1) // high + 1
                    looks[height - end : height - begin] = [look] * (end - begin)
            union = left | right
            if not union:
                continue
            row = ((union & -union).bit_length() - 1) // high
            left, right = left >> row * high, right >> row * high
            while left or right:
                bits = left & cell_bits
                if wide == 2:
                    bits |= (right & cell_bits) << high
                if bits:
                    characters[height - 1 - row] = table[bits]
                left, right, row = left >> high, right >> high, row + 1

    def put(self, x: int, y: int, character: str, look: str, *, is_behind: bool = False) -> None:
        """Put a character of one cell there; `is_behind`: only where nothing is drawn. Outside, nothing happens."""
        if not (0 <= x < len(self.characters) and 0 <= y < self._height):
            return
        if is_behind and self.characters[x][y] != " ":
            return
        self.characters[x][y], self.looks[x][y] = character, look

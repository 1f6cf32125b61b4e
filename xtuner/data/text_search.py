"""Text in rows that are not parsed: what `preview` searches with, on the command line and on the screen."""

import re
from collections.abc import Iterator


class TextPattern:
    """Finds `text` in the bytes of rows, upper and lower case alike, written out or as JSON escapes."""

    def __init__(self, text: str) -> None:
        self._plain = _compile(text, with_escapes=False)
        self._full = _compile(text, with_escapes=True)

    def places(self, data: bytes) -> Iterator[int]:
        """Where in `data` the text begins."""
        # Many times faster, for Chinese most of all: a fixed beginning can be looked for, alternatives cannot.
        pattern = self._full if b"\\u" in data else self._plain
        return (match.start() for match in pattern.finditer(data))


def _compile(text: str, *, with_escapes: bool) -> re.Pattern[bytes]:
    parts = (re.escape(c) if c.isascii() and (c.isalnum() or c == " ") else _any_form(c, with_escapes) for c in text)
    return re.compile("".join(parts).encode("latin-1"), re.IGNORECASE)


def _any_form(character: str, with_escapes: bool) -> str:
    """A pattern, bytes as Latin-1, for one character in all the ways that JSON may hold it."""
    forms: list[bytes] = []
    for variant in dict.fromkeys((character, character.lower(), character.upper())):
        forms.append(variant.encode("utf-8", "surrogatepass"))
        if with_escapes:
            units = variant.encode("utf-16-be", "surrogatepass")
            pairs = range(0, len(units), 2)
            forms.append("".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in pairs).encode())
    if character in '"\\/':
        forms.insert(0, b"\\" + character.encode())
    if character == "\\":
        forms.remove(b"\\")  # alone it is the beginning of an escape
    patterns = [re.escape(form.decode("latin-1")) for form in forms]
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"

"""The words that a byte-level BPE cuts text into, each tokenised once and remembered.

That needs the text cut into words here, by another regular-expression engine than the library's. The two agree on a
text when they agree on what kind of character each of its characters is, which is tried out once for each character
that is met. Where the patterns say that a blank behind other text always begins a word, what stands between two blanks
(a word with its signs, "(however,") is remembered as a whole, and text is cut at its blanks alone.

Ids are kept as the bytes of their int32 values: joining the bytes of a thousand words is one copy, where lists would
take each number in hand.
"""

import importlib
import re
import string
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from xtuner.data.word_patterns import cuts_at_blanks, in_ascii

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_WORDS = 2**18  # some 60 MB; beyond, the memory begins anew
_MAX_UNITS = 2**17  # some 30 MB
_MAX_UNIT = 24  # characters; a longer one hardly comes again

# Beside each of these a character shows whether it counts as a letter, a number, a blank, a line break or a sign.
_PROBES = ("a{0}a", "1{0}1", " {0} ", "!{0}!", "\n{0}\n", "'{0}", "{0}s", "{0}{0}{0}", "  {0}", "{0}  ")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def _byte_level_table() -> dict[int, str]:
    """GPT-2's stand-ins for bytes: those that print stand for themselves, the others are moved beyond U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(0x100, 0x200))
    return {byte: chr(byte) if byte in printing else chr(next(moved)) for byte in range(256)}


_BYTE_LEVEL = _byte_level_table()


Finder = Callable[[str], list[str]]


def id_bytes(ids: list[int]) -> bytes:
    """The bytes of `ids` as int32 values, in the machine's order; `np.frombuffer` reads them."""
    return np.array(ids, dtype=np.int32).tobytes()


class _WordIds(dict[str, bytes]):
    """The ids of each word, asked of `model` at the first time: a dict, so that looking up is not Python's work."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _MAX_WORDS:
            self.clear()
        tokens = self._model.tokenize("".join(map(_BYTE_LEVEL.__getitem__, word.encode())))
        ids = id_bytes([token.id for token in tokens])
        self[word] = ids
        return ids


class _NoUnitError(Exception):
    """What stands between two blanks does not end where a word does, or is not known."""


class _UnitIds(dict[str, bytes]):
    """The ids of a blank and what stands between it and the next one, which is a few words.

    Args:
        encode: for those met for the first time; may raise.
    """

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, unit: str) -> bytes:
        ids = self._encode(unit)
        if len(unit) <= _MAX_UNIT and "\n" not in unit:
            if len(self) >= _MAX_UNITS:
                self.clear()
            self[unit] = ids
        return ids


class WordMemory:
    """The ids of each word seen; make it with `word_memory`.

    Args:
        tokenizer: byte-level BPE.
        finders: each cuts a piece where the step of the pre-tokenizer with the same pattern does, in this order.
        ascii_finders: the same for pieces of ASCII alone, and faster; may be the same ones.
        cuts_at_blanks: whether a blank behind other text always begins a word, see `cuts_at_blanks`.
    """

    def __init__(
        self, tokenizer: "Tokenizer", finders: list[Finder], ascii_finders: list[Finder], cuts_at_blanks: bool
    ) -> None:
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._finders, self._ascii_finders = finders, ascii_finders
        self._ids = _WordIds(tokenizer.model)
        self._units = _UnitIds(self._encode_unit)
        self._cuts_at_blanks = cuts_at_blanks
        self._agreed = set(filter(self._is_agreed, map(chr, range(128))))
        odd = "".join(map(re.escape, sorted(set(map(chr, range(128))) - self._agreed)))
        self._odd_ascii = re.compile(f"[{odd}]") if odd else None

    def knows(self, piece: str) -> bool:
        """Whether both engines cut `piece` alike, and the normalizer leaves it as it is.

        A text in NFC stays so in all later versions of Unicode, if its characters are assigned in this one
        (Unicode's stability policy). No character joins with a blank before it, so units may be looked at alone.
        """
        if self._odd_ascii and self._odd_ascii.search(piece):
            return False
        if piece.isascii():
            return True
        new = set("".join(_NOT_ASCII.findall(piece))) - self._agreed
        agreed = set(filter(self._is_agreed, new)) if new else new
        self._agreed |= agreed
        return len(agreed) == len(new) and unicodedata.is_normalized("NFC", piece)

    def encode(self, piece: str) -> bytes | None:
        """The ids of `piece`, as the bytes of int32 values; None where it does not know them."""
        if self._cuts_at_blanks and "  " not in piece and "\n " not in piece:
            try:
                return self._encode_units(piece)
            except _NoUnitError:
                pass
        return self._by_words(piece) if self.knows(piece) else None

    def _encode_units(self, piece: str) -> bytes:
        first, *units = piece.split(" ")
        last = units.pop() if units else None
        if last is None or first[-1:].isspace() or not self.knows(first):
            raise _NoUnitError
        ids = self._by_words(first) + b"".join(map(self._units.__getitem__, units))
        if last in self._units:
            return ids + self._units[last]
        if not self.knows(" " + last):  # it need not end where a word does
            raise _NoUnitError
        return ids + self._by_words(" " + last)

    def _encode_unit(self, unit: str) -> bytes:
        piece = " " + unit
        if piece[-1].isspace() or not self.knows(piece):
            raise _NoUnitError
        return self._by_words(piece)

    def _by_words(self, piece: str) -> bytes:
        return b"".join(map(self._ids.__getitem__, self._words(piece)))

    def _words(self, piece: str) -> list[str]:
        first, *others = self._ascii_finders if piece.isascii() else self._finders
        words = first(piece)
        for find in others:
            words = [inner for word in words for inner in find(word)]
        return words

    def _is_agreed(self, character: str) -> bool:
        if unicodedata.category(character) in ("Cn", "Cs"):
            return False
        return all(self._cuts_alike(probe.format(character)) for probe in _PROBES)

    def _cuts_alike(self, text: str) -> bool:
        theirs = [text[begin:end] for _, (begin, end) in self._pre_tokenizer.pre_tokenize_str(text)]
        return theirs == self._words(text)


def word_memory(tokenizer: "Tokenizer", patterns: list[str]) -> WordMemory | None:
    """A memory for a byte-level BPE whose pre-tokenizer cuts text by `patterns`, one after the other.

    None where the engines at hand do not know a pattern, or there is none.
    """
    finders = _finders(patterns, "regex")  # transformers needs it too
    if not finders:
        return None
    cuts = cuts_at_blanks(patterns)
    memory = WordMemory(tokenizer, finders, finders, cuts)
    ascii_finders = _finders(list(map(in_ascii, patterns)), "re")
    if ascii_finders:
        faster = WordMemory(tokenizer, finders, ascii_finders, cuts)
        if all(map(faster.knows, filter(memory.knows, string.printable))):
            return faster
    return memory


def _finders(patterns: list[str], engine: str) -> list[Finder]:
    """For each pattern what finds its matches and what lies between them; none when `engine` cannot do one of them."""
    compile = importlib.import_module(engine).compile
    found: list[Finder] = []
    for pattern in patterns:
        try:
            compiled = compile(rf"(?:{pattern})|(?:(?!(?:{pattern}))[\s\S])+")
            if compiled.groups or compile(pattern).match("") is not None:
                return []
        except Exception:  # each engine has an error of its own
            return []
        found.append(compiled.findall)
    return found

"""Tokenising between special tokens: the fast way, for the tokenizers where it is exact.

Special tokens split a text before anything else does. Where what follows treats each piece by itself (byte-level
BPE without prefix blanks: Qwen, Llama 3, GPT-OSS, DeepSeek, Mistral's Tekken), the tokens of a text are those of
its pieces, and no character offsets are needed.

Such a tokenizer's words can be remembered as well, so that each is tokenised once. That needs the text cut into
words here, by another regular-expression engine than the library's. The two agree on a text when they agree on what
kind of character each of its characters is, which is tried out once for each character that is met.

Ids are kept as the bytes of their int32 values: joining the bytes of a thousand words is one copy, where lists would
take each number in hand.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_WORDS = 2**18  # some 60 MB; beyond, the memory begins anew
_NUM_VERIFIED = 64  # pieces that are tokenised both ways before the words are trusted
_SHORT = 64  # characters; pieces up to this repeat from row to row ("assistant\n")

# ByteLevel's own pattern (tokenizers: pre_tokenizers/byte_level.rs, from OpenAI's GPT-2).
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Beside each of these a character shows whether it counts as a letter, a number, a blank, a line break or a sign.
_PROBES = ("a{0}a", "1{0}1", " {0} ", "!{0}!", "\n{0}\n", "'{0}", "{0}s", "{0}{0}{0}", "  {0}", "{0}  ")


def _byte_level_table() -> dict[int, str]:
    """GPT-2's stand-ins for bytes: those that print stand for themselves, the others are moved beyond U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(0x100, 0x200))
    return {byte: chr(byte) if byte in printing else chr(next(moved)) for byte in range(256)}


_BYTE_LEVEL = _byte_level_table()


class SegmentEncoder:
    """Encodes pieces of text that hold no special token; make it with `segment_encoder`."""

    def __init__(self, tokenizer: "Tokenizer", special: dict[str, int], words: "WordMemory | None") -> None:
        self._tokenizer = tokenizer
        self.special_ids = {token: id_bytes([number]) for token, number in special.items()}
        # The longest first, as in the library's leftmost-longest search.
        self.special_pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self._words = words
        self._num_verified = 0
        self.encode_short = lru_cache(maxsize=4096)(self._encode)

    def encode(self, piece: str) -> bytes:
        """The ids of `piece`, as the bytes of int32 values."""
        return self.encode_short(piece) if len(piece) <= _SHORT else self._encode(piece)

    def _encode(self, piece: str) -> bytes:
        if self._words is None or not self._words.knows(piece):
            return id_bytes(self._tokenizer.encode(piece, add_special_tokens=False).ids)
        ids = self._words.encode(piece)
        if self._num_verified < _NUM_VERIFIED:
            self._num_verified += 1
            exact = id_bytes(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            if exact != ids:  # a pipeline that says one thing and does another: never remember its words
                self._words = None
                return exact
        return ids


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


class WordMemory:
    """The ids of each word seen.

    Args:
        tokenizer: byte-level BPE.
        finders: each cuts a piece where the step of the pre-tokenizer with the same pattern does, in this order.
    """

    def __init__(self, tokenizer: "Tokenizer", finders: list[Callable[[str], list[str]]]) -> None:
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._finders = finders
        self._ids = _WordIds(tokenizer.model)
        self._agreed = set(filter(self._is_agreed, map(chr, range(128))))
        odd = "".join(map(re.escape, sorted(set(map(chr, range(128))) - self._agreed)))
        self._odd_ascii = re.compile(f"[{odd}]" if odd else "(?!)")

    def knows(self, piece: str) -> bool:
        """Whether both engines cut `piece` alike, and the normalizer leaves it as it is.

        A text in NFC stays so in all later versions of Unicode, if its characters are assigned in this one
        (Unicode's stability policy).
        """
        if piece.isascii():
            return self._odd_ascii.search(piece) is None
        new = set(piece) - self._agreed
        agreed = set(filter(self._is_agreed, new)) if new else new
        self._agreed |= agreed
        return len(agreed) == len(new) and unicodedata.is_normalized("NFC", piece)

    def encode(self, piece: str) -> bytes:
        """The ids of a `piece` that it knows, as the bytes of int32 values."""
        return b"".join(map(self._ids.__getitem__, self._words(piece)))

    def _words(self, piece: str) -> list[str]:
        words = self._finders[0](piece)
        for find in self._finders[1:]:
            words = [inner for word in words for inner in find(word)]
        return words

    def _is_agreed(self, character: str) -> bool:
        if unicodedata.category(character) in ("Cn", "Cs"):
            return False
        return all(self._cuts_alike(probe.format(character)) for probe in _PROBES)

    def _cuts_alike(self, text: str) -> bool:
        theirs = [text[begin:end] for _, (begin, end) in self._pre_tokenizer.pre_tokenize_str(text)]
        return theirs == self._words(text)


def segment_encoder(tokenizer: "Tokenizer") -> SegmentEncoder | None:
    """An encoder for `tokenizer`, or None when its pieces depend on what stands before them."""
    pipeline = json.loads(tokenizer.to_str())
    added = pipeline["added_tokens"]
    if any(token[flag] for token in added for flag in ("normalized", "lstrip", "rstrip", "single_word")):
        return None
    steps = list(_steps(pipeline["pre_tokenizer"]))
    has_plain_normalizer = pipeline["normalizer"] is None or pipeline["normalizer"]["type"] == "NFC"
    is_plain_bpe = pipeline["model"]["type"] == "BPE" and not pipeline["model"].get("dropout")
    if not (has_plain_normalizer and is_plain_bpe and _is_byte_level(steps)):
        return None
    special = {token["content"]: token["id"] for token in added}
    finders = _word_finders(steps)
    return SegmentEncoder(tokenizer, special, WordMemory(tokenizer, finders) if finders else None)


def _steps(pre_tokenizer: dict[str, Any] | None) -> Iterable[dict[str, Any]]:
    if pre_tokenizer is not None:
        yield from pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _is_byte_level(steps: list[dict[str, Any]]) -> bool:
    return (
        bool(steps)
        and steps[-1]["type"] == "ByteLevel"
        and not steps[-1]["add_prefix_space"]
        and all(step["type"] in ("Split", "Digits") for step in steps[:-1])
    )


def _word_finders(steps: list[dict[str, Any]]) -> list[Callable[[str], list[str]]]:
    """One function a step that cuts text as that step does; none when there is a step that cannot be copied."""
    patterns = [_pattern(step) for step in steps[:-1]]
    if steps[-1].get("use_regex", True):
        patterns.append(_GPT2_PATTERN)
    finders = [_finder(pattern) for pattern in patterns if pattern is not None]
    copied = [finder for finder in finders if finder is not None]
    return copied if len(copied) == len(patterns) else []


def _pattern(step: dict[str, Any]) -> str | None:
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["behavior"] != "Isolated" or step["invert"]:
        return None
    pattern = step["pattern"].get("Regex")
    return str(pattern) if pattern is not None else re.escape(step["pattern"]["String"])


def _finder(pattern: str) -> Callable[[str], list[str]] | None:
    """Finds the matches of `pattern` and what lies between them."""
    import regex  # transformers needs it too

    try:
        compiled = regex.compile(rf"(?:{pattern})|(?:(?!(?:{pattern}))[\s\S])+")
        is_usable = not compiled.groups and regex.compile(pattern).match("") is None
    except regex.error:
        return None
    return compiled.findall if is_usable else None

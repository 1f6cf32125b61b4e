"""Tokenising between special tokens: the fast way, for the tokenizers where it is exact.

Special tokens split a text before anything else does. Where what follows treats each piece by itself (byte-level
BPE without prefix blanks: Qwen, Llama 3, GPT-OSS, DeepSeek, Mistral's Tekken), the tokens of a text are those of
its pieces, and no character offsets are needed.

Such a tokenizer's words can be remembered as well (`words.py`), where its way to cut text into words can be copied.
"""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xtuner.data.words import WordMemory, id_bytes, word_memory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NUM_VERIFIED = 64  # pieces that are tokenised both ways before the words are trusted
_SHORT = 64  # characters; pieces up to this repeat from row to row ("assistant\n")

# ByteLevel's own pattern (tokenizers: pre_tokenizers/byte_level.rs, from OpenAI's GPT-2).
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class SegmentEncoder:
    """Encodes pieces of text that hold no special token; make it with `segment_encoder`."""

    def __init__(self, tokenizer: "Tokenizer", special: dict[str, int], words: WordMemory | None) -> None:
        self._tokenizer = tokenizer
        self.special_ids = {token: id_bytes([number]) for token, number in special.items()}
        # The longest first, as in the library's leftmost-longest search.
        pattern = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"
        self._special_pattern = re.compile(f"({pattern})")
        self._words = words
        self._num_verified = 0
        self.encode_short = lru_cache(maxsize=4096)(self._encode)

    def split(self, text: str) -> list[str]:
        """`text` cut at its special tokens: every second part is one, and those between may be empty."""
        return self._special_pattern.split(text)

    def encode(self, piece: str) -> bytes:
        """The ids of `piece`, as the bytes of int32 values."""
        return self.encode_short(piece) if len(piece) <= _SHORT else self._encode(piece)

    def _encode(self, piece: str) -> bytes:
        ids = self._words.encode(piece) if self._words else None
        if ids is not None and self._num_verified >= _NUM_VERIFIED:
            return ids
        exact = id_bytes(self._tokenizer.encode(piece, add_special_tokens=False).ids)
        if ids is not None:
            self._num_verified += 1
            if exact != ids:  # a pipeline that says one thing and does another: never remember its words
                self._words = None
        return exact


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
    return SegmentEncoder(tokenizer, special, word_memory(tokenizer, _word_patterns(steps)))


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


def _word_patterns(steps: list[dict[str, Any]]) -> list[str]:
    """One pattern a step that cuts text as that step does; none when there is a step that cannot be copied."""
    patterns = [_pattern(step) for step in steps[:-1]]
    if steps[-1].get("use_regex", True):
        patterns.append(_GPT2_PATTERN)
    copied = [pattern for pattern in patterns if pattern is not None]
    return copied if len(copied) == len(patterns) else []


def _pattern(step: dict[str, Any]) -> str | None:
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["behavior"] != "Isolated" or step["invert"]:
        return None
    pattern = step["pattern"].get("Regex")
    return str(pattern) if pattern is not None else re.escape(step["pattern"]["String"])

"""Masked text to token ids and a token mask, proved against what inference would tokenise."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xtuner.data.mask import MaskedText, end_at_last_special

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class TokenSequence:
    """One training sequence: `ids` int32 [length], `is_trained` bool [length] (token i is a target)."""

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def truncated(self, length: int) -> "TokenSequence":
        """The first `length` tokens."""
        return TokenSequence(self.ids[:length], self.is_trained[:length])


class ChatTokenizer:
    """Tokenises masked texts with one tokenizer.

    A prompt's tokens must be what inference gets by tokenising the prompt alone. Tokenising the whole text at
    once can merge the end of a prompt with the first letters of the reply ("\\n" and "\\n" to one "\\n\\n"); a
    text where that happens is tokenised piece by piece, cut where its replies begin, as inference would.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(added)
        self._encode_tail = lru_cache(maxsize=4096)(self._encode_ids)
        self.num_split_at_reply = 0  # texts tokenised piece by piece

    def tokenize(self, texts: list[MaskedText]) -> list[TokenSequence]:
        """The token sequences of `texts`, in order; the batch is encoded in parallel threads."""
        encodings = self._tokenizer.encode_batch([masked.text for masked in texts], add_special_tokens=False)
        return [self._tokenize_one(masked, encoding) for masked, encoding in zip(texts, encodings, strict=True)]

    def _tokenize_one(self, masked: MaskedText, encoding: "Encoding") -> TokenSequence:
        ids = np.asarray(encoding.ids, dtype=np.int32)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        if all(self._is_prompt_intact(masked.text, begin, encoding.ids, offsets) for begin, _ in masked.spans):
            masked = end_at_last_special(masked, self._special_ends(encoding.ids, offsets))
            return TokenSequence(ids, _mask_by_offsets(offsets, masked.spans))
        self.num_split_at_reply += 1
        return self._tokenize_pieces(masked)

    def _is_prompt_intact(self, text: str, begin: int, ids: list[int], offsets: NDArray[np.int64]) -> bool:
        """Whether the tokens before character `begin` are those of `text[:begin]` tokenised alone.

        Special tokens split the text before anything else does, so only the piece behind the last of them has to
        be tokenised again; it is a few characters that repeat from row to row ("assistant\\n").
        """
        num_before = int(np.searchsorted(offsets[:, 0], begin, side="left"))
        if num_before and offsets[num_before - 1, 1] > begin:
            return False
        last_special = next((i for i in range(num_before - 1, -1, -1) if ids[i] in self._special_ids), None)
        if last_special is not None:
            tail = text[offsets[last_special, 1] : begin]
            if list(self._encode_tail(tail)) == ids[last_special + 1 : num_before]:
                return True
        return list(self._encode_ids(text[:begin])) == ids[:num_before]

    def _tokenize_pieces(self, masked: MaskedText) -> TokenSequence:
        cuts = [0, *(begin for begin, _ in masked.spans), len(masked.text)]
        pieces = [masked.text[begin:end] for begin, end in itertools.pairwise(cuts)]
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for begin, piece in zip(cuts, pieces, strict=False):
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            ids += encoding.ids
            offsets += [(begin + first, begin + last) for first, last in encoding.offsets]
        positions = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        masked = end_at_last_special(masked, self._special_ends(ids, positions))
        return TokenSequence(np.asarray(ids, dtype=np.int32), _mask_by_offsets(positions, masked.spans))

    def _special_ends(self, ids: list[int], offsets: NDArray[np.int64]) -> list[int]:
        return [int(offsets[i, 1]) for i, token in enumerate(ids) if token in self._special_ids]

    def _encode_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _mask_by_offsets(offsets: NDArray[np.int64], spans: tuple[tuple[int, int], ...]) -> NDArray[np.bool_]:
    """True for the tokens that lie wholly inside one of `spans`; `offsets` is int64 [length, 2]."""
    is_trained = np.zeros(len(offsets), dtype=np.bool_)
    for begin, end in spans:
        is_trained |= (offsets[:, 0] >= begin) & (offsets[:, 1] <= end) & (offsets[:, 1] > begin)
    return is_trained

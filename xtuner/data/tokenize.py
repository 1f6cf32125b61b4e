"""Masked text to token ids and a token mask, proved against what inference would tokenise.

A prompt's tokens must be what inference gets by tokenising the prompt alone. Tokenising the whole text at once can
merge the end of a prompt with the first letters of the reply ("\\n" and "\\n" to one "\\n\\n"); a text where that
happens is tokenised in two pieces there, as inference would.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xtuner.data.mask import MaskedText
from xtuner.data.problems import RowError
from xtuner.data.segments import SegmentEncoder, segment_encoder

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class TokenSequence:
    """One training sequence: `ids` int32 [length], `is_trained` bool [length] (token i is a target)."""

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def num_targets(self) -> int:
        """Trained tokens; a sequence's first token is never a target, nothing predicts it."""
        return int(np.count_nonzero(self.is_trained[1:]))

    def part(self, begin: int, end: int) -> "TokenSequence":
        """Tokens `begin` to `end`."""
        return TokenSequence(self.ids[begin:end], self.is_trained[begin:end])


class SequenceTokenizer:
    """Tokenises masked texts with one tokenizer.

    Args:
        tokenizer: without truncation and padding.
        eos_id: put at the end of documents; None leaves them open.
    """

    def __init__(self, tokenizer: "Tokenizer", eos_id: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._eos_id = eos_id
        self.special_ids = frozenset(tokenizer.get_added_tokens_decoder())
        self._segments = segment_encoder(tokenizer)
        self._encode_tail = lru_cache(maxsize=4096)(self._encode_ids)
        self._num_split = 0
        alone = list(self._encode_ids("a"))
        self._adds_prefix = self._decode(alone + alone) != "aa"

    def tokenize(self, texts: list[MaskedText]) -> tuple[list[MaskedText], list[TokenSequence]]:
        """The token sequences of `texts`, in order, and the text of each.

        A reply that begins or ends inside a token gets a sequence of its own: the prompts of later replies hold it
        tokenised together with its surroundings.

        Raises:
            RowError: the tokens of a reply that was tokenised alone do not add up to its text.
        """
        pending, done, sequences = texts[::-1], [], []
        while pending:
            masked = pending.pop()
            sequence, broken = self._attempt(masked)
            if sequence is None:
                pending += masked.apart(broken)[::-1]
            else:
                done.append(masked)
                sequences.append(sequence)
        return done, sequences

    def take_num_split(self) -> int:
        """How many texts were tokenised in pieces since the last call, because a reply began inside a token."""
        count, self._num_split = self._num_split, 0
        return count

    def _attempt(self, masked: MaskedText) -> tuple[TokenSequence | None, int]:
        """The tokens of `masked`, or the index of a span that needs a sequence of its own."""
        if masked.is_document:
            return self._document(masked.text), 0
        fast = _BySegments(masked, self._segments).tokens() if self._segments else None
        if fast is None:
            return self._by_offsets(masked, self._tokenizer.encode(masked.text, add_special_tokens=False))
        if fast.broken is None:
            return fast.sequence, 0
        if len(masked.spans) > 1:
            return None, fast.broken
        self._num_split += 1
        return fast.sequence, 0

    def _document(self, text: str) -> TokenSequence:
        """As in pre-training: the beginning token where the tokenizer has one, the text, the end of text."""
        ids = self._tokenizer.encode(text, add_special_tokens=True).ids
        if self._eos_id is not None and ids[-1:] != [self._eos_id]:
            ids = [*ids, self._eos_id]
        return TokenSequence(np.asarray(ids, dtype=np.int32), np.ones(len(ids), dtype=np.bool_))

    def _by_offsets(self, masked: MaskedText, encoding: "Encoding") -> tuple[TokenSequence | None, int]:
        """For any tokenizer: the library says which characters each token stands for."""
        ids = np.asarray(encoding.ids, dtype=np.int32)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        if masked.is_whole:
            return TokenSequence(ids, np.ones(len(ids), dtype=np.bool_)), 0
        spans = _end_at_special(masked, self._special_ranges(encoding.ids, offsets))
        for index, (begin, end) in enumerate(spans):
            is_open = index + 1 < len(spans) and bool(np.any((offsets[:, 0] < end) & (offsets[:, 1] > end)))
            if is_open or not self._is_prompt_intact(masked.text, begin, encoding.ids, offsets):
                if len(spans) > 1:
                    return None, index
                self._num_split += 1
                return self._in_pieces(masked), 0
        return TokenSequence(ids, _mask_by_offsets(offsets, spans)), 0

    def _is_prompt_intact(self, text: str, begin: int, ids: list[int], offsets: NDArray[np.int64]) -> bool:
        """Whether the tokens before character `begin` are those of `text[:begin]` tokenised alone.

        Special tokens split the text before anything else does, so only the piece behind the last of them has to
        be tokenised again; it is a few characters that repeat from row to row ("assistant\\n").
        """
        num_before = int(np.searchsorted(offsets[:, 0], begin, side="left"))
        if num_before and offsets[num_before - 1, 1] > begin:
            return False
        last_special = next((i for i in range(num_before - 1, -1, -1) if ids[i] in self.special_ids), None)
        if last_special is not None:
            tail = text[offsets[last_special, 1] : begin]
            if list(self._encode_tail(tail)) == ids[last_special + 1 : num_before]:
                return True
        return list(self._encode_ids(text[:begin])) == ids[:num_before]

    def _in_pieces(self, masked: MaskedText) -> TokenSequence:
        [(begin, _)] = masked.spans
        prompt = self._tokenizer.encode(masked.text[:begin], add_special_tokens=False)
        reply_ids, reply_offsets = self._encode_behind(masked.text[begin:])
        ids = [*prompt.ids, *reply_ids]
        offsets = [*prompt.offsets, *((begin + first, begin + last) for first, last in reply_offsets)]
        self._require_same_text(masked.text, ids, self._decode(prompt.ids) + masked.text[begin:])
        positions = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        spans = _end_at_special(masked, self._special_ranges(ids, positions))
        return TokenSequence(np.asarray(ids, dtype=np.int32), _mask_by_offsets(positions, spans))

    def _encode_behind(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of `text` as they stand behind other text, where SentencePiece puts no blank before them."""
        if not self._adds_prefix:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            return encoding.ids, encoding.offsets
        for anchor in ("\n", "a", ".", "0"):
            encoding = self._tokenizer.encode(anchor + text, add_special_tokens=False)
            first = next((i for i, (begin, _) in enumerate(encoding.offsets) if begin >= 1), len(encoding.ids))
            if all(end <= 1 for _, end in encoding.offsets[:first]):
                return encoding.ids[first:], [(begin - 1, end - 1) for begin, end in encoding.offsets[first:]]
        return [], []

    def _require_same_text(self, text: str, ids: list[int], expected: str) -> None:
        pieces, whole = self._decode(ids), self._decode(list(self._encode_ids(text)))
        if pieces.rstrip() not in (expected.rstrip(), whole.rstrip()):  # some end tokens swallow the blanks behind them
            same = next((i for i, (a, b) in enumerate(zip(pieces, whole, strict=False)) if a != b), 0)
            raise RowError(
                "MASK_UNPROVED",
                "a reply begins inside a token, and its tokens alone do not add up to the text\n"
                f"  in one piece: {whole[same : same + 60]!r}\n  in two pieces: {pieces[same : same + 60]!r}",
                hint="use a chat template whose generation prompt ends in a special token (--chat-template FILE)",
            )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _special_ranges(self, ids: list[int], offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
        return [(int(offsets[i, 0]), int(offsets[i, 1])) for i, token in enumerate(ids) if token in self.special_ids]

    def _encode_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


_ID_BYTES = np.dtype(np.int32).itemsize


@dataclass(frozen=True)
class _FastTokens:
    sequence: TokenSequence
    broken: int | None  # the first span that begins inside a token


class _BySegments:
    """One text, tokenised between its special tokens; `tokens` is None where the spans need character offsets."""

    def __init__(self, masked: MaskedText, encoder: SegmentEncoder) -> None:
        self._encoder = encoder
        self._masked = masked
        self._begins = [begin for begin, _ in masked.spans]
        self._ids: list[bytes] = []  # int32
        self._num_ids = 0
        self._index_at: dict[int, int] = {0: 0}  # character position -> tokens before it, where that is known
        self._broken: int | None = None

    def tokens(self) -> _FastTokens | None:
        special_ids, specials, position = self._encoder.special_ids, [], 0
        for index, part in enumerate(self._encoder.split(self._masked.text)):
            end = position + len(part)
            if index % 2:
                self._add(special_ids[part], end)
                specials.append((position, end))
            elif part:
                self._add_plain(part, position, end)
            position = end
        ids = np.frombuffer(b"".join(self._ids), dtype=np.int32)
        is_trained = np.zeros(len(ids), dtype=np.bool_)
        for begin, end in _end_at_special(self._masked, specials):
            if begin not in self._index_at or end not in self._index_at:
                return None
            is_trained[self._index_at[begin] : self._index_at[end]] = True
        if self._masked.is_whole:
            is_trained[:] = True
        return _FastTokens(TokenSequence(ids, is_trained), self._broken)

    def _add(self, ids: bytes, end: int) -> None:
        """Take up `ids`, which stand for the text up to character `end`."""
        self._ids.append(ids)
        self._num_ids += len(ids) // _ID_BYTES
        self._index_at[end] = self._num_ids

    def _add_plain(self, piece: str, begin: int, end: int) -> None:
        """Text without special tokens; where a reply begins inside, the tokens before it must be the prompt's."""
        ids = self._encoder.encode(piece)
        first = bisect_right(self._begins, begin)
        for number in range(first, bisect_left(self._begins, end, first)):
            cut = self._begins[number]
            before = self._encoder.encode(piece[: cut - begin])
            if not ids.startswith(before):
                self._broken = number if self._broken is None else self._broken
                ids = before + self._encoder.encode(piece[cut - begin :])
            self._index_at[cut] = self._num_ids + len(before) // _ID_BYTES
        self._add(ids, end)


def _end_at_special(masked: MaskedText, specials: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans of `masked`, each ended at the end-of-turn token.

    The line break after `<|im_end|>` is layout that the model never has to produce: a span ends behind its last
    special token when only blanks follow. A span that the template marks may stop short of the end-of-turn token
    that stands right behind it: then it is taken in, or the model would never learn to stop. A token of blanks alone
    ends no turn, though a vocabulary may have it as an added one (Gemma's line breaks).

    Args:
        masked: the text and its spans.
        specials: character ranges of the special tokens, ascending.
    """
    if not masked.spans:
        return []
    specials = [(begin, end) for begin, end in specials if not masked.text[begin:end].isspace()]
    begins = [begin for begin, _ in specials]

    def adjust(span: tuple[int, int], stop: int) -> tuple[int, int]:
        begin, end = span
        index = bisect_left(begins, end)
        if index < len(specials) and begins[index] == end and specials[index][1] <= stop:
            return begin, specials[index][1]
        last = specials[index - 1] if index else (-1, -1)
        is_end = last[0] >= begin and not masked.text[last[1] : end].strip()
        return (begin, last[1]) if is_end else span  # a token may reach beyond the span: blanks that it swallows

    return list(map(adjust, masked.spans, masked.stops))


def _mask_by_offsets(offsets: NDArray[np.int64], spans: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """True for the tokens that lie wholly inside one of `spans`; `offsets` is int64 [length, 2]."""
    is_trained = np.zeros(len(offsets), dtype=np.bool_)
    for begin, end in spans:
        is_trained |= (offsets[:, 0] >= begin) & (offsets[:, 1] <= end) & (offsets[:, 1] > begin)
    return is_trained

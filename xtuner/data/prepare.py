"""Data file to `PreparedData`: read, check, render, mask, tokenise, truncate, count, pack."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xtuner.data.chat import read_chat
from xtuner.data.jsonl import read_rows
from xtuner.data.mask import MaskedText, mask_chat
from xtuner.data.packing import plan_packs
from xtuner.data.template import ChatTemplate, load_chat_template, load_tokenizer
from xtuner.data.tokenize import ChatTokenizer, TokenSequence
from xtuner.errors import DataError

_BATCH = 1024  # texts handed to the tokenizer's threads at once


@dataclass
class DataCounts:
    """What happened to the rows: nothing is cut or dropped without standing here."""

    rows: int = 0
    without_reply: int = 0  # rows with no assistant message, left out
    truncated: int = 0  # sequences cut at the row limit
    tokens_cut: int = 0
    without_target: int = 0  # sequences left out because nothing trainable is left of them
    extra_sequences: int = 0  # sequences beyond one a row, from templates that rewrite earlier turns
    split_at_reply: int = 0  # sequences tokenised piece by piece
    sequences: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def report(self, row_limit: int) -> list[str]:
        """The counts as lines; exceptions from the plain case only when there are any."""
        share = 100 * self.trained_tokens / self.tokens if self.tokens else 0.0
        lines = [f"data: {self.rows:,} rows, {self.tokens:,} tokens, {self.trained_tokens:,} trained ({share:.0f} %)"]
        exceptions = [
            (self.truncated, f"cut at {row_limit:,} tokens, {self.tokens_cut:,} tokens lost (--max-length)"),
            (self.without_reply, "left out: no assistant message"),
            (self.without_target, "left out: no trainable token within the row limit"),
            (self.extra_sequences, "added: the chat template rewrites earlier turns, so replies train apart"),
            (self.split_at_reply, "tokenised piece by piece: a reply begins inside a token of its prompt"),
        ]
        return lines + [f"data: {count:,} {what}" for count, what in exceptions if count]


@dataclass(frozen=True)
class PreparedData:
    """Token sequences, flat, and the packs made of them; the same on every rank.

    Attributes:
        ids: int32 [tokens], all sequences one after the other.
        is_trained: bool [tokens].
        starts: int64 [sequences + 1], where each sequence begins in `ids`; the last entry is the end.
        packs: sequence indices of each pack.
        counts: what happened to the rows.
    """

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    starts: NDArray[np.int64]
    packs: list[list[int]]
    counts: DataCounts = field(default_factory=DataCounts)

    def sequence(self, index: int) -> TokenSequence:
        """Sequence `index`, as views."""
        part = slice(self.starts[index], self.starts[index + 1])
        return TokenSequence(self.ids[part], self.is_trained[part])

    def num_targets(self, pack: int) -> int:
        """Trained tokens of a pack; a sequence's first token is never a target, nothing predicts it."""
        return sum(int(self.sequence(i).is_trained[1:].sum()) for i in self.packs[pack])

    def fingerprint(self) -> str:
        """SHA-256 of tokens, mask and packs, in hex: equal on all ranks, or they would train on different data."""
        digest = hashlib.sha256()
        for part in (
            self.ids,
            self.is_trained,
            self.starts,
            np.concatenate([np.asarray(p) for p in self.packs]),
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def prepare_data(
    dataset: Path,
    tokenizer_dir: Path,
    *,
    row_limit: int,
    pack_length: int,
    min_packs: int,
    on_progress: Callable[[int], None] | None = None,
) -> PreparedData:
    """Tokenise and pack `dataset` with the tokenizer and chat template of `tokenizer_dir`.

    Args:
        dataset: JSONL file of chats.
        tokenizer_dir: directory with tokenizer.json and a chat template.
        row_limit: tokens a row may have; the rest is cut off and counted.
        pack_length: tokens of a pack.
        min_packs: packs needed for one optimizer step.
        on_progress: called with the number of sequences done, now and then.

    Raises:
        ModelError: no tokenizer or chat template.
        DataError: an unreadable file, a row that is not a chat, nothing to train on, too few rows.
    """
    tokenizer = ChatTokenizer(load_tokenizer(tokenizer_dir))
    counts = DataCounts()
    sequences: list[TokenSequence] = []
    texts = _masked_texts(dataset, load_chat_template(tokenizer_dir), counts)
    while batch := list(islice(texts, _BATCH)):
        sequences += _fit(tokenizer.tokenize(batch), row_limit, counts)
        if on_progress:
            on_progress(len(sequences))
    counts.split_at_reply = tokenizer.num_split_at_reply
    _check_amount(dataset, counts, len(sequences), min_packs, row_limit)
    return _collect(sequences, counts, pack_length, min_packs)


def _masked_texts(dataset: Path, template: ChatTemplate, counts: DataCounts) -> Iterator[MaskedText]:
    for row in read_rows(dataset):
        counts.rows += 1
        masked = mask_chat(read_chat(row), template)
        counts.without_reply += not masked
        counts.extra_sequences += max(0, len(masked) - 1)
        yield from masked


def _fit(sequences: list[TokenSequence], row_limit: int, counts: DataCounts) -> Iterator[TokenSequence]:
    for sequence in sequences:
        if len(sequence) > row_limit:
            counts.truncated += 1
            counts.tokens_cut += len(sequence) - row_limit
            sequence = sequence.truncated(row_limit)
        if sequence.is_trained[1:].any():
            yield sequence
        else:
            counts.without_target += 1


def _check_amount(dataset: Path, counts: DataCounts, num_sequences: int, min_packs: int, row_limit: int) -> None:
    if num_sequences == 0:
        raise DataError(
            f"{dataset}: none of the {counts.rows:,} rows has a trainable token: {counts.without_reply:,} have no "
            f"assistant message, {counts.without_target:,} have no reply within {row_limit:,} tokens",
            hint="only assistant messages are trained; add some, or raise --max-length and --pack-max-length",
        )
    if num_sequences < min_packs:
        raise DataError(
            f"{dataset} has {num_sequences:,} trainable rows, one optimizer step needs {min_packs:,}",
            hint=f"give at least {min_packs:,} rows, use fewer ranks, or lower --global-batch-size",
        )


def _collect(sequences: list[TokenSequence], counts: DataCounts, pack_length: int, min_packs: int) -> PreparedData:
    lengths = np.asarray([len(sequence) for sequence in sequences], dtype=np.int64)
    is_trained = np.concatenate([sequence.is_trained for sequence in sequences])
    counts.sequences = len(sequences)
    counts.tokens = int(lengths.sum())
    counts.trained_tokens = sum(int(sequence.is_trained[1:].sum()) for sequence in sequences)
    return PreparedData(
        ids=np.concatenate([sequence.ids for sequence in sequences]),
        is_trained=is_trained,
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        packs=plan_packs(lengths, pack_length, min_packs=min_packs),
        counts=counts,
    )

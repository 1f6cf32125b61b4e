"""The way of a row: bytes, value, chat, masked text, tokens. What a worker does, chunk by chunk."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xtuner.data.chat import Chat, Document
from xtuner.data.checks import check_chat
from xtuner.data.counts import DataCounts
from xtuner.data.formats import read_row
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import Chunk
from xtuner.data.mask import MaskedText, hidden_content, mask_chat
from xtuner.data.options import FormatName, RowOptions
from xtuner.data.problems import Problem, ProblemLog, RowError
from xtuner.data.profile import RowProfile
from xtuner.data.template import ChatTemplate, TokenizerFiles
from xtuner.data.tokenize import SequenceTokenizer, TokenSequence


@dataclass
class ChunkResult:
    """What became of the rows of a chunk.

    Attributes:
        ids: int32 [tokens], all sequences one after the other.
        is_trained: bool [tokens].
        lengths: int32 [sequences], tokens of each.
        num_targets: int32 [sequences], trained tokens of each.
        lines: int64 [sequences], the line each came from.
        counts, problems, profile: see their classes; `profile` only where it was asked for.
    """

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    num_targets: NDArray[np.int32]
    lines: NDArray[np.int64]
    counts: DataCounts
    problems: ProblemLog
    profile: RowProfile | None = None


# What tokenising takes at worst: a slow core, and text of which each byte is a token.
_SLOW_BYTES_PER_S = 2**18
_MEMORY_PER_BYTE = 256


@dataclass(frozen=True)
class PipelineSpec:
    """All that decides what a pipeline makes of a row; goes to the workers.

    Attributes:
        tokenizer_dir: directory with tokenizer.json and special tokens.
        chat_template: a file with another template than the directory's, or None.
        options: what is done to each row.
        wants_profile: whether to gather what `preview` reports besides the tokens.
        first_cpu_s, first_memory_bytes: what the first chunk of each worker may use, while the chat template is
            not known to end.
    """

    tokenizer_dir: Path
    chat_template: Path | None = None
    options: RowOptions = field(default_factory=RowOptions)
    wants_profile: bool = False
    first_cpu_s: int = 10
    first_memory_bytes: int = 2 * 2**30

    def cpu_limit_s(self, num_bytes: int) -> int:
        """CPU seconds for a first chunk of `num_bytes`: long rows take their time whatever the template does."""
        return self.first_cpu_s + num_bytes // _SLOW_BYTES_PER_S

    def memory_limit_bytes(self, num_bytes: int) -> int:
        """Memory for a first chunk of `num_bytes`."""
        return self.first_memory_bytes + _MEMORY_PER_BYTE * num_bytes


@dataclass(frozen=True)
class RowSequences:
    """One row on its way: as read, as rendered, as tokens before the length limit."""

    row: Chat | Document
    texts: list[MaskedText]
    sequences: list[TokenSequence]


class RowPipeline:
    """Turns rows into training sequences with one tokenizer, one template, one set of options.

    Raises:
        ModelError: no readable tokenizer or chat template.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec
        self.files = TokenizerFiles.load(spec.tokenizer_dir, spec.chat_template)
        self.tokenizer = SequenceTokenizer(self.files.tokenizer, self.files.eos_id)
        self.special_pattern = _special_pattern(self.files)
        added = self.files.tokenizer.get_added_tokens_decoder()
        self._names = {id: token.content for id, token in added.items() if token.content.strip()}

    @property
    def max_tokens(self) -> int:
        """Tokens a sequence may have."""
        return self.spec.options.max_tokens

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template; files of plain text need none."""
        return self.files.require_template()

    def process(self, chunk: Chunk, path: Path, format: FormatName) -> ChunkResult:
        """All rows of `chunk`; rows in error are counted in `problems`, and give no sequences."""
        counts, problems = DataCounts(), ProblemLog()
        profile = RowProfile() if self.spec.wants_profile else None
        kept: list[tuple[int, TokenSequence]] = []
        for index, (number, line) in enumerate(zip(chunk.numbers, chunk.lines, strict=True)):
            is_last = chunk.ends_file and index == len(chunk.lines) - 1
            where = f"{path}:{number}"
            counts.rows += 1
            try:
                done = self.row(line, where, format, is_last=is_last, profile=profile)
                fitted = list(self._fit(done, counts))
            except RowError as error:
                counts.rows_in_error += 1
                problems.add(Problem(error.code, error.message, error.hint))
                continue
            self._judge(done, fitted, counts, problems)
            if profile is not None:
                profile.add_tokens(sum(map(len, done.sequences)))
            kept += [(number, sequence) for sequence in fitted if sequence.num_targets]
        counts.split_at_reply += self.tokenizer.take_num_split()
        return _collect(kept, counts, problems, profile)

    def row(
        self, line: bytes, where: str, format: FormatName, *, is_last: bool = False, profile: RowProfile | None = None
    ) -> RowSequences:
        """One row.

        Raises:
            RowError: it cannot be trained.
        """
        value = parse_line(line, where, is_last=is_last)
        if profile is not None:
            profile.add_value(value)
        row = read_row(value, format, where)
        if profile is not None:
            profile.add_row(row)
        if isinstance(row, Document):
            texts = [MaskedText(row.text, is_document=True)]
        else:
            texts = mask_chat(row, self.template, self.spec.options.mask_policy)
        try:
            return RowSequences(row, *self.tokenizer.tokenize(texts))
        except RowError as error:
            raise RowError(error.code, f"{row.where}: {error.message}", hint=error.hint) from None

    def _fit(self, done: RowSequences, counts: DataCounts) -> Iterator[TokenSequence]:
        """The sequences of a row within the length limit, by the policy for over-long ones."""
        limit, policy = self.spec.options.max_tokens, self.spec.options.overlong
        for sequence in done.sequences:
            excess = len(sequence) - limit
            if excess <= 0:
                yield sequence
                continue
            if policy == "error":
                raise RowError(
                    "TOO_LONG",
                    f"{done.row.where}: the row has {len(sequence):,} tokens, the limit is {limit:,}",
                    hint="raise --max-length and --pack-max-length, or choose another --overlong",
                )
            counts.overlong += 1
            if policy == "truncate":
                counts.tokens_cut += excess
                yield sequence.part(0, limit)
            elif policy == "drop":
                counts.tokens_cut += len(sequence)
            else:
                counts.tokens_split += excess
                yield from (sequence.part(begin, begin + limit) for begin in range(0, len(sequence), limit))

    def _judge(self, done: RowSequences, fitted: list[TokenSequence], counts: DataCounts, problems: ProblemLog) -> None:
        """Count what the row is like, and what is odd about it."""
        self._count_ends(done, counts)
        counts.rewritten += max(0, len(done.sequences) - 1)
        targetless = sum(not sequence.num_targets for sequence in fitted)
        counts.without_target += targetless
        if targetless:
            problems.add(
                Problem("NO_TARGET", f"{done.row.where}: no trained token within the length limit"), targetless
            )
        if isinstance(done.row, Document):
            return
        for problem in check_chat(done.row, self.special_pattern):
            problems.add(problem)
        if not done.texts:
            counts.without_reply += 1
            problems.add(Problem("NO_REPLY", f"{done.row.where}: no assistant message to train"))
        for hidden in hidden_content(done.row, done.texts, self.spec.options.mask_policy) if done.texts else []:
            problems.add(Problem("NOT_SHOWN", f"{done.row.where}: {hidden} is not in what the chat template shows"))

    def _count_ends(self, done: RowSequences, counts: DataCounts) -> None:
        bos_id = self.files.bos_id
        for sequence in done.sequences:
            if bos_id is not None:
                begin = sequence.ids[:3] == bos_id
                counts.begin_tokens[len(begin) if begin.all() else int(np.argmin(begin))] += 1
            for last in sequence.ids[_ends(sequence.is_trained)].tolist():
                counts.replies += 1
                if last in self._names:
                    counts.replies_ended += 1
                    counts.end_tokens[self._names[last]] += 1


def _ends(is_trained: NDArray[np.bool_]) -> list[int]:
    """Where runs of trained tokens end: their last tokens."""
    flags = is_trained.tobytes() + b"\0"  # searched as bytes: a few microseconds less than three arrays
    ends, place = [], flags.find(b"\1\0")
    while place >= 0:
        ends.append(place)
        place = flags.find(b"\1\0", place + 1)
    return ends


def _special_pattern(files: TokenizerFiles) -> re.Pattern[str]:
    """Finds special tokens in text; words that were merely added (`<think>`) are no surprise there."""
    added = files.tokenizer.get_added_tokens_decoder().values()
    names = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or "(?!)")


def _collect(
    kept: list[tuple[int, TokenSequence]], counts: DataCounts, problems: ProblemLog, profile: RowProfile | None
) -> ChunkResult:
    sequences = [sequence for _, sequence in kept]
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    num_targets = np.array([sequence.num_targets for sequence in sequences], dtype=np.int32)
    counts.sequences = len(sequences)
    counts.tokens = int(lengths.sum())
    counts.trained_tokens = int(num_targets.sum())
    return ChunkResult(
        ids=np.concatenate([np.empty(0, np.int32), *(sequence.ids for sequence in sequences)]),
        is_trained=np.concatenate([np.empty(0, np.bool_), *(sequence.is_trained for sequence in sequences)]),
        lengths=lengths,
        num_targets=num_targets,
        lines=np.array([number for number, _ in kept], dtype=np.int64),
        counts=counts,
        problems=problems,
        profile=profile,
    )

"""Data files to `PreparedData`: found, tokenised once, kept, packed."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from xtuner import __version__
from xtuner.data.cache import CACHE_VERSION, TokenCache
from xtuner.data.counts import DataCounts
from xtuner.data.formats import detect_format
from xtuner.data.jobs import Job
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import Chunk, LineReader
from xtuner.data.options import FormatName, Packing, RowOptions, SourceSpec
from xtuner.data.packing import PackPlan, pack_singly, plan_packs
from xtuner.data.pool import WorkerPool
from xtuner.data.prepared import PreparedData, select
from xtuner.data.problems import ProblemLog
from xtuner.data.rows import PipelineSpec
from xtuner.data.sources import DataFile, find_files
from xtuner.data.store import StoreWriter, TokenStore
from xtuner.data.template import tokenizer_fingerprint
from xtuner.errors import DataError

MAX_ERRORS = 100  # rows in error after which reading on would tell nothing new
_MAX_WORKERS = 32
_BYTES_A_WORKER = 2 * 2**20  # a further worker for less would take longer to start than to work


@dataclass(frozen=True)
class Progress:
    """How far tokenising is.

    Attributes:
        path: the file at hand.
        rows, errors: of this file so far.
        read_bytes, total_bytes: of this file; of a compressed one, compressed.
        elapsed_s: seconds since this file was begun.
    """

    path: Path
    rows: int
    errors: int
    read_bytes: int
    total_bytes: int
    elapsed_s: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second of this file so far."""
        return self.rows / max(self.elapsed_s, 1e-9)

    @property
    def eta_s(self) -> float:
        """Seconds that the rest of this file takes at the speed so far."""
        share = min(1.0, self.read_bytes / self.total_bytes) if self.read_bytes else 0.0
        return self.elapsed_s * (1 - share) / share if share else 0.0

    def sentence(self) -> str:
        """For logs: rows, speed, time left, rows in error so far."""
        errors = f", {self.errors:,} rows in error" if self.errors else ""
        return (
            f"tokenising {self.path}: {self.rows:,} rows, {self.rows_per_s:,.0f} rows/s, "
            f"{self.eta_s:.0f} s left{errors}"
        )


@dataclass(frozen=True)
class DataRequest:
    """What to prepare.

    Attributes:
        specs: the data as the user names it.
        tokenizer_dir: directory with tokenizer.json and a chat template.
        chat_template: a file with another template, or None.
        rows: what is done to each row.
        packing: `best-fit`, or `none` for one sequence a pack.
        pack_length: tokens of a pack.
        seed: decides which rows a ratio below 1 takes.
        num_workers: processes that tokenise; None for one a core.
    """

    specs: list[SourceSpec]
    tokenizer_dir: Path
    chat_template: Path | None = None
    rows: RowOptions = field(default_factory=RowOptions)
    packing: Packing = "best-fit"
    pack_length: int = 4096
    seed: int = 42
    num_workers: int | None = None

    @property
    def pipeline(self) -> PipelineSpec:
        """What the workers need to know of it."""
        return PipelineSpec(self.tokenizer_dir, self.chat_template, self.rows)


def prepare_data(
    request: DataRequest, cache: TokenCache, on_progress: Callable[[Progress], None] | None = None
) -> PreparedData:
    """Tokenise what the cache does not hold yet, and pack it all.

    Raises:
        ModelError: no readable tokenizer or chat template.
        DataError: an unreadable file, rows in error, nothing to train on.
        EnvironmentFault: the cache cannot be written.
    """
    files = find_files(request.specs)
    cache.prepare()
    stores = _open_stores(request, files, cache, on_progress or (lambda progress: None))
    _require_sequences(stores, request)
    ratios = [file.ratio for file in files]
    selected = select(stores, ratios, request.seed)
    if not len(selected):
        raise DataError("the ratios of the data leave no row", hint="raise `ratio` in `datasets`")
    plan = _plan(request, stores, selected, ratios, cache)
    return PreparedData(stores, selected, plan, ratios, [str(file.path) for file in files])


def _open_stores(
    request: DataRequest, files: list[DataFile], cache: TokenCache, on_progress: Callable[[Progress], None]
) -> list[TokenStore]:
    tokenizer = tokenizer_fingerprint(request.tokenizer_dir, request.chat_template)
    keys = [_store_key(request, file, tokenizer, cache) for file in files]
    found = [_open(cache, key) for key in keys]
    missing = {key: file for key, file, store in zip(keys, files, found, strict=True) if store is None}
    made: dict[str, TokenStore] = {}
    if missing:
        with ExitStack() as stack:
            builder = _Builder(request, cache, on_progress, stack, sum(file.state.size for file in missing.values()))
            made = {key: builder.build(key, file) for key, file in missing.items()}
    return [made[key] if store is None else store for key, store in zip(keys, found, strict=True)]


def _store_key(request: DataRequest, file: DataFile, tokenizer: str, cache: TokenCache) -> str:
    parts = {
        "version": [__version__, CACHE_VERSION],
        "content": cache.content_hash(file),
        "kind": file.kind,
        "format": file.format,
        "tokenizer": tokenizer,
        "options": asdict(request.rows),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _open(cache: TokenCache, key: str) -> TokenStore | None:
    """The store of `key`; None where it is not there, or damaged: then it is made again."""
    path = cache.store_path(key)
    try:
        store = TokenStore.open(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    cache.touch(path)
    return store


class _Builder:
    """Makes stores; the workers start with the first one that no other process makes in the meantime."""

    def __init__(
        self,
        request: DataRequest,
        cache: TokenCache,
        on_progress: Callable[[Progress], None],
        stack: ExitStack,
        num_bytes: int,
    ) -> None:
        self._request = request
        self._cache = cache
        self._on_progress = on_progress
        self._stack = stack
        self._num_bytes = num_bytes
        self._pool: WorkerPool | None = None

    def build(self, key: str, file: DataFile) -> TokenStore:
        path = self._cache.store_path(key)
        with self._cache.lock(path):
            store = _open(self._cache, key)  # made by another process while this one waited
            if store is not None:
                return store
            self._cache.discard(path)
            with self._cache.making(path) as directory, StoreWriter(directory) as writer:
                writer.finish({**self._tokenise(file, writer), "key": key})
        store = _open(self._cache, key)
        assert store is not None, "it was just made"
        return store

    def _tokenise(self, file: DataFile, writer: StoreWriter) -> dict[str, object]:
        if self._pool is None:
            num_workers = count_workers(self._request.num_workers, self._num_bytes)
            self._pool = self._stack.enter_context(WorkerPool(self._request.pipeline, num_workers))
        reader, counts, problems = LineReader(file), DataCounts(), ProblemLog()
        first, chunks = _peek(reader.chunks())
        if first is None:
            blank = ", only blank lines" if reader.notes.num_blank else ""
            raise DataError(f"{file.path} holds no rows{blank}", hint="write one chat a line")
        format = settle_format(file, first)
        begun_at, read_bytes = time.monotonic(), [0]

        def jobs() -> Iterator[Job]:
            for chunk in chunks:
                read_bytes[0] = chunk.read_bytes
                yield Job(chunk, file.path, format)

        for result in self._pool.run(jobs()):
            writer.write(result)
            counts.add(result.counts)
            problems.merge(result.problems)
            if problems.num_errors > MAX_ERRORS:
                problems.raise_errors(is_whole_file=False)
            elapsed_s = time.monotonic() - begun_at
            self._on_progress(
                Progress(file.path, counts.rows, problems.num_errors, read_bytes[0], file.state.size, elapsed_s)
            )
        problems.raise_errors(is_whole_file=True)
        notes = {"path": str(file.path), "format": format, "said": reader.notes.sentences()}
        return {"counts": counts.to_json(), "problems": problems.to_json(), "notes": notes}


def count_workers(asked: int | None, num_bytes: int) -> int:
    """Processes that are worth starting: as asked, else one a core, fewer for little data."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MAX_WORKERS, -(-num_bytes // _BYTES_A_WORKER)))


def settle_format(file: DataFile, first: Chunk) -> FormatName:
    """The format of a file: as asked for, else that of its first row.

    Raises:
        RowError: the first row has no known shape, or is no JSON.
    """
    if file.format != "auto":
        return file.format
    where = f"{file.path}:{first.numbers[0]}"
    is_last = first.ends_file and len(first.lines) == 1
    return detect_format(parse_line(first.lines[0], where, is_last=is_last), where)


def _peek(chunks: Iterator[Chunk]) -> tuple[Chunk | None, Iterator[Chunk]]:
    """The first chunk, and all chunks with that one."""
    first = next(chunks, None)
    return first, itertools.chain([] if first is None else [first], chunks)


def _require_sequences(stores: list[TokenStore], request: DataRequest) -> None:
    if any(len(store) for store in stores):
        return
    counts = PreparedData(stores, np.empty(0, np.int64), pack_singly(0)).counts
    where = stores[0].notes.get("path", "the data") if len(stores) == 1 else f"{len(stores)} data files"
    dropped = f", {counts.overlong:,} are longer and dropped" if request.rows.overlong == "drop" else ""
    raise DataError(
        f"{where}: none of the {counts.rows:,} rows has a trainable token: {counts.without_reply:,} have no assistant "
        f"message, {counts.without_target:,} have no reply within {request.rows.max_tokens:,} tokens{dropped}",
        hint="only assistant messages are trained; add some, or raise --max-length and --pack-max-length",
    )


def _plan(
    request: DataRequest,
    stores: list[TokenStore],
    selected: "np.typing.NDArray[np.int64]",
    ratios: list[float],
    cache: TokenCache,
) -> PackPlan:
    if request.packing == "none":
        return pack_singly(len(selected))
    parts = [[store.key for store in stores], ratios, request.pack_length]
    if any(ratio % 1 for ratio in ratios):
        parts.append(request.seed)  # which rows a fraction takes
    path = cache.plan_path(sha256(json.dumps(parts).encode()).hexdigest())
    plan = _open_plan(path, len(selected))
    if plan is not None:
        return plan
    with cache.lock(path):
        plan = _open_plan(path, len(selected))
        if plan is None:
            lengths = np.concatenate([store.lengths for store in stores])[selected]
            plan = plan_packs(lengths, request.pack_length)
            cache.discard(path)
            with cache.making(path) as directory:
                np.save(directory / "members.npy", plan.members)
                np.save(directory / "starts.npy", plan.starts)
    return plan


def _open_plan(path: Path, num_sequences: int) -> PackPlan | None:
    try:
        members, starts = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("members", "starts"))
    except (OSError, ValueError, EOFError):  # not there, or damaged: then it is made again
        return None
    is_whole = starts.ndim == members.ndim == 1 and len(starts) and starts[-1] == len(members) == num_sequences
    return PackPlan(members, starts) if is_whole else None

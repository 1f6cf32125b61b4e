"""From what the user asks for to prepared data: several files, shares of them, counts, progress, and what stops it."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import tiny_models

from xtuner import preflight
from xtuner.data import prepare as prepare_module
from xtuner.data.cache import TokenCache
from xtuner.data.jobs import Job
from xtuner.data.options import RowOptions, SourceSpec
from xtuner.data.prepare import MAX_ERRORS, DataRequest, Progress, count_workers, prepare_data
from xtuner.data.prepared import PreparedData, select
from xtuner.data.report import report_lines
from xtuner.data.rows import ChunkResult, PipelineSpec, RowPipeline
from xtuner.data.store import store_in_memory
from xtuner.data.tokenize import TokenSequence
from xtuner.errors import DataError
from xtuner.v1.config import TrainerConfig


class OneProcess:
    """`WorkerPool` in this process."""

    def __init__(self, spec: PipelineSpec, num_workers: int) -> None:
        self._pipeline = RowPipeline(spec)

    def __enter__(self) -> "OneProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def run(self, jobs: Iterator[Job]) -> Iterator[ChunkResult]:
        return (self._pipeline.process(job.chunk, job.path, job.format) for job in jobs)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "WorkerPool", OneProcess)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return directory


Prepare = Callable[..., PreparedData]


@pytest.fixture
def prepare(tokenizer_dir: Path, tmp_path: Path) -> Prepare:
    """`prepare(path or specs, ..., max_tokens=..., seed=...)`, with a cache of its own."""

    def call(*data: Any, on_progress: Callable[[Progress], None] | None = None, **options: Any) -> PreparedData:
        specs = [spec if isinstance(spec, SourceSpec) else SourceSpec(str(spec)) for spec in data]
        of_rows = {key: options.pop(key) for key in ("max_tokens", "overlong", "mask_policy") if key in options}
        request = DataRequest(specs, tokenizer_dir, rows=RowOptions(**of_rows), **options)
        return prepare_data(request, TokenCache(tmp_path / "cache"), on_progress)

    return call


def _chat(question: str = "Hi", answer: str = "Hello there.") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_several_files_of_several_formats_with_shares(prepare: Prepare, tmp_path: Path) -> None:
    chats = _write(tmp_path / "a.jsonl", *(_chat(str(i)) for i in range(10)))
    alpaca = _write(tmp_path / "b.jsonl", *({"instruction": str(i), "output": "x"} for i in range(10)))
    text = _write(tmp_path / "c.jsonl", *({"text": f"Water boils {i}."} for i in range(4)))
    specs = [SourceSpec(str(chats), 0.5), SourceSpec(str(alpaca), 2.3), SourceSpec(str(text), 1, "text")]
    data = prepare(*specs)
    assert [store.notes["format"] for store in data.stores] == ["messages", "alpaca", "text"]
    rows = {row for pack in range(data.num_packs) for row in data.rows_of_pack(pack)}
    assert {f"{alpaca}:{line}" for line in range(1, 11)} < rows and f"{text}:4" in rows and len(rows) == 5 + 10 + 4
    used = np.bincount(data.selected, minlength=24)
    assert sorted(used[:10]) == [0] * 5 + [1] * 5 and sorted(used[10:20]) == [2] * 7 + [3] * 3 and set(used[20:]) == {1}
    assert data.counts.rows == data.counts.sequences == 24  # before shares
    packed = [sequence for pack in range(data.num_packs) for sequence in data.pack(pack)]
    assert len(packed) == 5 + 23 + 4 and sum(map(len, packed)) == data.num_tokens_packed()
    said = report_lines(data, 4096)
    assert "used 0.5 times" in said[0] and "10 rows in the format alpaca, used 2.3 times" in said[1]
    assert (prepare(*specs, seed=7).selected != data.selected).any()
    assert prepare(*specs).fingerprint() == data.fingerprint() != prepare(*specs, seed=7).fingerprint()


def test_packs_hold_every_sequence_once_and_count_their_targets(prepare: Prepare, tmp_path: Path) -> None:
    path = _write(tmp_path / "d.jsonl", *(_chat("q" * (i % 40), "a" * (1 + i % 17)) for i in range(200)))
    packed, single = prepare(path, pack_length=256, max_tokens=256), prepare(path, packing="none", max_tokens=256)
    assert single.num_packs == 200 > packed.num_packs
    for data in (packed, single):
        sequences = [sequence for pack in range(data.num_packs) for sequence in data.pack(pack)]
        assert sorted(s.ids.tolist() for s in sequences) == sorted(
            data.stores[0].sequence(i).ids.tolist() for i in range(200)
        )
        assert all(sum(map(len, data.pack(pack))) <= 256 for pack in range(data.num_packs))
        targets = [data.num_targets(pack) for pack in range(data.num_packs)]
        assert targets == [sum(s.num_targets for s in data.pack(pack)) for pack in range(data.num_packs)]
        assert sum(targets) == data.counts.trained_tokens and min(data.pack_cost(p) for p in range(data.num_packs)) > 0


def _store(*rows: int) -> Any:
    """A store of one-token sequences; `rows` are the lines they come from."""
    sequences = [TokenSequence(np.zeros(2, np.int32), np.ones(2, np.bool_)) for _ in rows]
    store = store_in_memory(iter(sequences))
    object.__setattr__(store, "lines", np.array(rows))
    return store


def test_a_share_takes_whole_rows_and_its_choice_is_fixed() -> None:
    stores = [_store(1, 1, 2, 2, 3, 3, 4, 4), _store(*range(10))]
    chosen = select(stores, [0.5, 0.1], seed=1)
    assert len(chosen) == 5 and all((chosen[:4] // 2 == row).sum() in (0, 2) for row in range(4))
    assert (select(stores, [0.5, 0.1], seed=1) == chosen).all()
    assert select(stores, [1, 0.001], seed=1).tolist() == list(range(8))
    assert np.bincount(select(stores, [3, 1], seed=1)).tolist() == [3] * 8 + [1] * 10


WORD = " water"


@pytest.mark.parametrize(
    ("overlong", "rows", "tokens", "cut", "moved"),
    [("truncate", 2, 64, True, False), ("drop", 1, 64, True, False), ("split", 7, 64, False, True)],
)
def test_long_rows_are_counted_whatever_becomes_of_them(
    overlong: str, rows: int, tokens: int, cut: bool, moved: bool, prepare: Prepare, tmp_path: Path
) -> None:
    path = _write(tmp_path / "d.jsonl", _chat(), _chat("q", WORD * 120))
    data = prepare(path, max_tokens=tokens, overlong=overlong)
    counts = data.counts
    assert len(data.stores[0]) == counts.sequences == rows and counts.overlong == 1
    assert (counts.tokens_cut > 0, counts.tokens_split > 0) == (cut, moved)
    assert max(data.stores[0].lengths) <= tokens
    whole = prepare(path).counts.tokens
    assert counts.tokens + counts.tokens_cut == whole  # nothing is lost without being counted
    assert any("1 cut at" in line or "1 split" in line for line in report_lines(data, tokens))


def test_documents_without_a_target_are_counted(prepare: Prepare, tmp_path: Path) -> None:
    """A piece of one token trains nothing: nothing predicts its only token."""
    words = WORD * 3
    num_tokens = prepare(_write(tmp_path / "a.jsonl", {"text": words})).counts.tokens
    data = prepare(tmp_path / "a.jsonl", max_tokens=num_tokens - 1, overlong="split")
    assert data.counts.sequences == 1 and data.counts.without_target == 1
    assert data.problems.counts["NO_TARGET"] == 1


def test_long_rows_can_be_refused(prepare: Prepare, tmp_path: Path) -> None:
    path = _write(tmp_path / "d.jsonl", _chat(), _chat("q", WORD * 120))
    with pytest.raises(DataError, match=r"d\.jsonl:2: the row has \d+ tokens, the limit is 64"):
        prepare(path, max_tokens=64, overlong="error")


BAD = "{oops"

# name -> (rows, options, words of the message)
STOPS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "one row in error": ([_chat(), BAD], {}, "d.jsonl:2:2: invalid JSON"),
    "the first row in error": ([BAD, _chat()], {}, "d.jsonl:1:2: invalid JSON"),
    "a few rows in error": ([_chat()] + [BAD] * 3, {}, "and 2 more rows in error: INVALID_JSON 2 (xtuner preview"),
    "many rows in error": ([_chat()] + [BAD] * 9999, {}, "more rows in error so far: INVALID_JSON"),
    "blank lines": (["", " ", "\t"], {}, "d.jsonl holds no rows, only blank lines"),
    "no assistant": ([_chat()[:1]] * 3, {}, "none of the 3 rows has a trainable token: 3 have no assistant message"),
    "no reply within the limit": ([_chat("q" * 99)] * 2, {"max_tokens": 32}, "2 have no reply within 32 tokens"),
    "all dropped": (
        [_chat("q", WORD * 99)] * 2,
        {"max_tokens": 32, "overlong": "drop"},
        "2 are longer and dropped",
    ),
}


@pytest.mark.parametrize("case", STOPS)
def test_what_stops_a_run_before_it_begins(case: str, prepare: Prepare, tmp_path: Path) -> None:
    rows, options, words = STOPS[case]
    with pytest.raises(DataError) as caught:
        prepare(_write(tmp_path / "d.jsonl", *rows), **options)
    assert words in caught.value.message and caught.value.hint and caught.value.exit_code == 4
    assert caught.value.message.startswith(str(tmp_path / "d.jsonl"))


def test_reading_ends_soon_after_too_many_errors(prepare: Prepare, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(DataError, match="so far"):
        prepare(_write(tmp_path / "d.jsonl", _chat(), *[BAD] * 9999), on_progress=seen.append)
    assert max([0, *(progress.rows for progress in seen)]) < 1000 and MAX_ERRORS < 1000


def test_shares_that_leave_nothing(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave no row") as caught:
        prepare(SourceSpec(str(_write(tmp_path / "d.jsonl", _chat())), ratio=0.1))
    assert "ratio" in caught.value.hint


def test_progress_goes_from_nothing_to_all(prepare: Prepare, tmp_path: Path) -> None:
    path = _write(tmp_path / "d.jsonl", *(_chat(str(i)) for i in range(2000)))
    seen: list[Progress] = []
    prepare(path, on_progress=seen.append)
    assert (
        len(seen) > 3 and seen[-1].rows == 2000 and seen[-1].read_bytes == seen[-1].total_bytes == path.stat().st_size
    )
    assert [progress.rows for progress in seen] == sorted(progress.rows for progress in seen)
    assert seen[-1].eta_s == 0 and "2,000 rows" in seen[-1].sentence() and str(path) in seen[-1].sentence()
    later = len(seen)
    prepare(path, on_progress=seen.append)
    assert len(seen) == later  # nothing to do, nothing to say


def test_workers_are_started_for_much_data_and_as_asked() -> None:
    cores = len(os.sched_getaffinity(0))
    assert count_workers(None, 0) == count_workers(None, 1) == 1
    assert count_workers(None, 2**40) == min(cores, 32) and count_workers(7, 1) == 7


def _found_and_then(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]) -> None:
    """`change` happens to the data after it was found and before it is read."""
    find = prepare_module.find_files

    def find_and_change(specs: list[SourceSpec]) -> Any:
        files = find(specs)
        change(files[0].path)
        return files

    monkeypatch.setattr(prepare_module, "find_files", find_and_change)


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps(_chat()) + "\n")


@pytest.mark.parametrize(("change", "words"), [(_append, "changed while it was read"), (Path.unlink, "cannot be read")])
def test_data_that_changes_under_way_is_refused(
    change: Callable[[Path], object], words: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "d.jsonl", _chat())
    _found_and_then(monkeypatch, change)
    with pytest.raises(DataError, match=words) as caught:
        prepare(path)
    assert str(path) in caught.value.message and caught.value.hint
    assert not list((tmp_path / "cache" / "stores").glob("v*[0-9a-f]"))


def test_ranks_refuse_data_that_the_launcher_did_not_check(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "d.jsonl", *(_chat(str(i)) for i in range(5)))
    config = TrainerConfig(dataset=(path,), tokenizer_path=tokenizer_dir, cache_dir=tmp_path / "cache")
    checked = preflight.prepare_training_data(config)
    monkeypatch.setenv(preflight.FINGERPRINT_VARIABLE, checked.fingerprint())
    assert preflight.prepare_training_data(config).fingerprint() == checked.fingerprint()
    changed = [
        config.model_copy(update={"mask_policy": "full"}),
        config.model_copy(update={"pack_max_length": 64}),
        config,
    ]
    for number, other in enumerate(changed):
        if other is config:
            path.write_bytes(path.read_bytes().replace(b"there", b"where"))  # one byte, the same length
        with pytest.raises(DataError, match="changed since the launcher checked them") as caught:
            preflight.prepare_training_data(other)
        assert caught.value.exit_code == 4, number


def test_a_file_whose_name_is_no_text(prepare: Prepare, tmp_path: Path) -> None:
    """Linux names are bytes; some archives unpack to names in Latin-1."""
    odd = _write(tmp_path / os.fsdecode(b"K\xf6ln.jsonl"), _chat())
    first, second = prepare(odd), prepare(odd)
    assert first.fingerprint() == second.fingerprint() and first.stores[0].notes["path"] == str(odd)


def test_nothing_depends_on_where_it_is_called(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "d.jsonl", _chat())
    first = prepare(tmp_path / "d.jsonl")
    monkeypatch.chdir(tmp_path)
    assert prepare("d.jsonl").fingerprint() == prepare("./*.jsonl").fingerprint() == first.fingerprint()

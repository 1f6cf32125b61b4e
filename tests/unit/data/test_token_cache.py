"""The token cache: what makes a store anew, what finds it again, and what becomes of damaged ones."""

import copy
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import tiny_models

from xtuner.data import cache as cache_module
from xtuner.data import prepare as prepare_module
from xtuner.data.cache import CACHE_VERSION, TokenCache, default_cache_dir
from xtuner.data.jobs import Job
from xtuner.data.options import RowOptions, SourceSpec
from xtuner.data.prepare import DataRequest, prepare_data
from xtuner.data.prepared import PreparedData
from xtuner.data.rows import ChunkResult, PipelineSpec, RowPipeline
from xtuner.errors import DataError, EnvironmentFault

CHATS = [
    [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "A number."}] for i in range(9)
]


class OneProcess:
    """`WorkerPool` in this process; counts how often one was made."""

    num_made = 0
    before_work: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, spec: PipelineSpec, num_workers: int) -> None:
        type(self).num_made += 1
        self._pipeline = RowPipeline(spec)

    def __enter__(self) -> "OneProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def run(self, jobs: Iterator[Job]) -> Iterator[ChunkResult]:
        for job in jobs:
            type(self).before_work()
            yield self._pipeline.process(job.chunk, job.path, job.format)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "WorkerPool", OneProcess)
    monkeypatch.setattr(OneProcess, "num_made", 0)
    monkeypatch.setattr(OneProcess, "before_work", staticmethod(lambda: None))


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return directory


class Setup:
    """Data, a tokenizer of its own, a cache, and a request for them."""

    def __init__(self, directory: Path, tokenizer_dir: Path) -> None:
        self.tokenizer_dir = shutil.copytree(tokenizer_dir, directory / "tokenizer")
        self.data = directory / "d.jsonl"
        self.data.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
        self.cache = TokenCache(directory / "cache")
        self.request = DataRequest([SourceSpec(str(self.data))], self.tokenizer_dir, rows=RowOptions(64))

    def prepare(self, **changes: Any) -> PreparedData:
        return prepare_data(replace(self.request, **changes), self.cache)

    def made(self, kind: str) -> list[Path]:
        return [path for path in (self.cache.directory / kind).iterdir() if path.is_dir()]


@pytest.fixture
def setup(tmp_path: Path, tokenizer_dir: Path) -> Setup:
    return Setup(tmp_path, tokenizer_dir)


def _same(a: PreparedData, b: PreparedData) -> bool:
    return a.fingerprint() == b.fingerprint() and all(
        (x.ids == y.ids).all() and (x.is_trained == y.is_trained).all() and (x.starts == y.starts).all()
        for x, y in zip(a.stores, b.stores, strict=True)
    )


def _detached(data: PreparedData) -> PreparedData:
    """The same in memory: files that are cut while they are mapped end the process."""
    return copy.deepcopy(replace(data, stores=[replace(s, ids=np.array(s.ids)) for s in data.stores]))


def test_a_second_start_tokenises_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setup.prepare()
    assert OneProcess.num_made == 1 and len(first.stores[0]) == len(CHATS)
    monkeypatch.setattr(prepare_module, "WorkerPool", None)
    second = setup.prepare()
    assert _same(first, second) and second.counts == first.counts and second.problems == first.problems
    assert second.stores[0].notes == {"path": str(setup.data), "format": "messages", "said": []}


def _rewrite_config(setup: Setup) -> None:
    path = setup.tokenizer_dir / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|endoftext|>"}))


def _rewrite_tokenizer(setup: Setup) -> None:
    path = setup.tokenizer_dir / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))


def _edit_same_size_and_time(setup: Setup) -> None:
    status = setup.data.stat()
    setup.data.write_text(setup.data.read_text().replace("A number.", "One, two."))
    os.utime(setup.data, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rows(**options: Any) -> Callable[[Setup], Any]:
    return lambda setup: {"rows": replace(setup.request.rows, **options)}


# What is changed in the setup, or the changes of the request.
OTHER_TOKENS: dict[str, Callable[[Setup], Any]] = {
    "a row more": lambda s: s.data.write_bytes(s.data.read_bytes() * 2),
    "a byte, not size nor time": _edit_same_size_and_time,
    "the tokenizer": _rewrite_tokenizer,
    "special tokens": _rewrite_config,
    "the chat template": lambda s: (s.tokenizer_dir / "chat_template.jinja").write_text("x" + tiny_models.CHATML),
    "another chat template": lambda s: {"chat_template": _template(s, "y" + tiny_models.CHATML)},
    "the length limit": _rows(max_tokens=63),
    "what becomes of long rows": _rows(overlong="drop"),
    "the mask policy": _rows(mask_policy="full"),
    "the format": lambda s: {"specs": [SourceSpec(str(s.data), format="messages")]},
}
SAME_TOKENS: dict[str, Callable[[Setup], Any]] = {
    "nothing": lambda s: {},
    "the file's times": lambda s: os.utime(s.data, ns=(5, 5)),
    "the file written again": lambda s: s.data.write_bytes(s.data.read_bytes()),
    "another path": lambda s: {"specs": [SourceSpec(str(shutil.copy(s.data, s.data.with_name("other.json"))))]},
    "the same template from a file": lambda s: {"chat_template": _template(s, tiny_models.CHATML)},
    "the pack length": lambda s: {"pack_length": 128},
    "packing": lambda s: {"packing": "none"},
    "the seed": lambda s: {"seed": 7},
    "the ratio": lambda s: {"specs": [SourceSpec(str(s.data), ratio=2)]},
    "the number of processes": lambda s: {"num_workers": 2},
}


def _template(setup: Setup, source: str) -> Path:
    path = setup.data.with_name("t.jinja")
    path.write_text(source)
    return path


@pytest.mark.parametrize("case", [*OTHER_TOKENS, *SAME_TOKENS])
def test_what_makes_a_store_anew_and_what_does_not(case: str, setup: Setup) -> None:
    first = setup.prepare()
    changes = {**OTHER_TOKENS, **SAME_TOKENS}[case](setup)
    second = setup.prepare(**(changes if isinstance(changes, dict) else {}))
    is_other = case in OTHER_TOKENS
    assert OneProcess.num_made == len(setup.made("stores")) == 1 + is_other
    assert (second.stores[0].key != first.stores[0].key) == is_other


@pytest.mark.parametrize("name", ["CACHE_VERSION", "__version__"])
def test_what_another_version_made_is_not_read(name: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.prepare()
    monkeypatch.setattr(prepare_module, name, "other")
    setup.prepare()
    assert OneProcess.num_made == 2


def test_pack_plans_are_kept_by_what_they_are_made_of(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setup.prepare()
    monkeypatch.setattr(prepare_module, "plan_packs", None)
    assert _same(first, setup.prepare(seed=7))  # which packs there are does not depend on their order
    monkeypatch.undo()
    half = [SourceSpec(str(setup.data), ratio=0.5)]
    for changes in ({"pack_length": 128}, {"specs": half}, {"specs": half, "seed": 7}):
        before = len(setup.made("plans"))
        setup.prepare(**changes)
        assert len(setup.made("plans")) == before + 1


def _cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(path / name, size)


def _meta(**changes: Any) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        meta = {**json.loads((path / "meta.json").read_text()), **changes}
        (path / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "ids cut": _cut("ids.i32", 8),
    "ids cut inside a number": _cut("ids.i32", 7),
    "starts cut": _cut("starts.i64", 16),
    "starts empty": _cut("starts.i64", 0),
    "meta empty": _cut("meta.json", 0),
    "meta of zeros": lambda path: (path / "meta.json").write_bytes(bytes(100)),
    "meta a list": lambda path: (path / "meta.json").write_text("[]"),
    "meta without counts": _meta(counts=None),
    "problems a list": _meta(problems=[]),
    "ids gone": lambda path: (path / "ids.i32").unlink(),
    "meta gone": lambda path: (path / "meta.json").unlink(),
    "all gone": lambda path: [file.unlink() for file in path.iterdir()],
    "a file in its place": lambda path: (shutil.rmtree(path), path.write_text("x")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_store_is_made_again(case: str, setup: Setup) -> None:
    first = _detached(setup.prepare())
    DAMAGE[case](setup.made("stores")[0])
    assert _same(first, setup.prepare()) and OneProcess.num_made == 2
    assert _same(first, setup.prepare()) and OneProcess.num_made == 2  # and stays whole


PLAN_DAMAGE: dict[str, Callable[[Path], object]] = {
    "members cut": _cut("members.npy", 150),
    "members empty": _cut("members.npy", 0),
    "starts gone": lambda path: (path / "starts.npy").unlink(),
    "members of other data": lambda path: np.save(path / "members.npy", np.arange(3)),
    "a file in its place": lambda path: (shutil.rmtree(path), path.write_text("x")),
}


@pytest.mark.parametrize("case", PLAN_DAMAGE)
def test_a_damaged_plan_is_made_again(case: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _detached(setup.prepare())
    PLAN_DAMAGE[case](setup.made("plans")[0])
    assert _same(first, setup.prepare())
    monkeypatch.setattr(prepare_module, "plan_packs", None)
    assert _same(first, setup.prepare())


@pytest.mark.parametrize("note", ["", "{", "[]", "5", "null", '{"state": 1}', '{"state": {}, "sha256": "0"}'])
def test_a_damaged_note_of_a_hash_is_not_believed(note: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_RACY_NS", -(10**18))  # as if the data was written long ago
    first = setup.prepare()
    [path] = (setup.cache.directory / "files").iterdir()
    path.write_text(note)
    assert _same(first, setup.prepare()) and json.loads(path.read_text())["sha256"]


def _count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    hashed: list[Path] = []
    real = cache_module._hash_file
    monkeypatch.setattr(cache_module, "_hash_file", lambda path: (hashed.append(path), real(path))[1])
    return hashed


def test_a_file_is_hashed_once_until_it_is_touched(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = _count_hashes(monkeypatch)
    monkeypatch.setattr(cache_module, "_RACY_NS", -(10**18))  # as if everything was written long ago
    for _ in range(3):
        setup.prepare()
    assert len(hashed) == 1
    os.utime(setup.data)
    for _ in range(3):
        setup.prepare()
    assert len(hashed) == 2 and OneProcess.num_made == 1


@pytest.mark.parametrize("modified_ns", [None, 0])
def test_the_hash_of_a_file_just_written_is_not_remembered(
    modified_ns: int | None, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could change once more within the grain of its time stamps; the time of modification can be set, too."""
    hashed = _count_hashes(monkeypatch)
    if modified_ns is not None:
        os.utime(setup.data, ns=(modified_ns, modified_ns))
    setup.prepare()
    setup.prepare()
    assert len(hashed) == 2


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "xtuner" / "data"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == tmp_path / ".cache" / "xtuner" / "data"


def _is_fault(prepare: Callable[[], object]) -> bool:
    with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
        prepare()
    return caught.value.exit_code == 5 and "--cache-dir" in caught.value.hint


def test_a_cache_that_cannot_be_written(setup: Setup, tmp_path: Path) -> None:
    for place in (setup.data, Path("/proc/xtuner")):
        assert _is_fault(lambda place=place: prepare_data(setup.request, TokenCache(place)))
    setup.prepare()
    [store] = setup.made("stores")
    shutil.rmtree(store)
    lock = store.with_name(f"{store.name}.lock")
    lock.unlink()
    lock.mkdir()  # even root cannot open that
    assert _is_fault(setup.prepare)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read(setup: Setup) -> None:
    first = setup.prepare()
    directories = [setup.cache.directory / name for name in ("stores", "plans", "files", ".")]
    for directory in directories:
        directory.chmod(0o555)
    try:
        assert _same(first, setup.prepare())  # what is there is used
        assert _is_fault(lambda: setup.prepare(rows=RowOptions(32)))
    finally:
        for directory in directories:
            directory.chmod(0o755)


def test_what_fails_half_way_leaves_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    good = setup.data.read_bytes()
    setup.data.write_bytes(good + b"{oops\n")
    with pytest.raises(DataError):
        setup.prepare()
    setup.data.write_bytes(good)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OneProcess, "before_work", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        setup.prepare()
    assert {path.suffix for path in (setup.cache.directory / "stores").iterdir()} == {".lock"}
    monkeypatch.setattr(OneProcess, "before_work", staticmethod(lambda: None))
    assert len(setup.prepare().stores[0]) == len(CHATS)


def test_the_second_of_two_waits_and_finds_what_the_first_made(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    is_at_work, may_go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_at_work.set()
        assert may_go_on.wait(30)

    monkeypatch.setattr(OneProcess, "before_work", staticmethod(wait))
    with ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(setup.prepare) for _ in range(4)]
        assert is_at_work.wait(30)
        may_go_on.set()
    assert all(_same(starts[0].result(), start.result()) for start in starts) and OneProcess.num_made == 1


@pytest.mark.parametrize("is_told", [True, False])
def test_of_two_that_cannot_lock_the_first_rename_wins(
    is_told: bool, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have no locks; on some a lock that is none is given to everybody."""

    def no_lock(descriptor: int, operation: int) -> None:
        if is_told:
            raise OSError("no locks here")

    monkeypatch.setattr(cache_module.fcntl, "flock", no_lock)
    both_at_work = threading.Barrier(2)
    monkeypatch.setattr(OneProcess, "before_work", staticmethod(lambda: both_at_work.wait(30)))
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(setup.prepare) for _ in range(2)]
    assert _same(*(start.result() for start in starts)) and OneProcess.num_made == 2
    assert len(setup.made("stores")) == 1 and not list(setup.cache.directory.rglob("*.tmp"))


def test_sweeping_deletes_what_the_dead_left_and_nothing_else(setup: Setup) -> None:
    setup.prepare()
    stores, plans = setup.cache.directory / "stores", setup.cache.directory / "plans"
    dead, alive = 2**22 + 1, os.getpid()  # beyond the largest process id of Linux
    for parent in (stores, plans):
        for pid in (dead, alive):
            (parent / f".v{CACHE_VERSION}-abc.{pid}.0123.tmp").mkdir()
    (stores / ".strange.tmp").mkdir()
    (stores / "v0-old").mkdir()
    (stores / f"v{CACHE_VERSION}-gone.lock").touch()
    kept = set(setup.made("stores")) - {stores / "v0-old"} - set(stores.glob(".*.tmp"))
    with setup.cache.lock(stores / f"v{CACHE_VERSION}-held"):
        assert setup.cache.sweep() == 3
        assert (stores / f"v{CACHE_VERSION}-held.lock").exists()
    left = {path for parent in (stores, plans) for path in parent.iterdir() if path.is_dir()}
    assert left == kept | {parent / f".v{CACHE_VERSION}-abc.{alive}.0123.tmp" for parent in (stores, plans)}
    assert not (stores / f"v{CACHE_VERSION}-gone.lock").exists()

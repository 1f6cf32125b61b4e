"""Real worker processes: the same tokens from any number of them, limits on templates, and nothing left behind."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_models
from processes import children_of

from xtuner.data.cache import TokenCache
from xtuner.data.jobs import Job, ShowJob
from xtuner.data.lines import Chunk
from xtuner.data.options import RowOptions, SourceSpec
from xtuner.data.pool import WorkerPool
from xtuner.data.prepare import DataRequest, prepare_data
from xtuner.data.prepared import PreparedData
from xtuner.data.rows import ChunkResult, PipelineSpec, RowPipeline
from xtuner.errors import DataError, ModelError

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return directory


def _job(*rows: Any, path: str = "d.jsonl", format: Any = "messages", first: int = 1) -> Job:
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    return Job(Chunk(0, list(range(first, first + len(rows))), lines, ends_file=True), Path(path), format)


def _chat(question: str = "Hi", answer: str = "Hello there.") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _children() -> list[psutil.Process]:
    return children_of(os.getpid(), "xtuner.data.worker")


@pytest.fixture(scope="module")
def prepared(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, PreparedData]:
    """The same data from 1, 2 and 3 processes, each with a cache of its own."""
    directory = tmp_path_factory.mktemp("prepared")
    # Chunks of very different cost, so that they end in another order than they begin.
    rows = [_chat(f"{i}?", "water boils. " * (150 if i < 256 else 1)) for i in range(256 * 6 + 1)]
    rows[300] = rows[300][:1]  # a warning
    path = directory / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {}
    for num_workers in (1, 2, 3):
        request = DataRequest(
            [SourceSpec(str(path))], tokenizer_dir, rows=RowOptions(512, "split"), num_workers=num_workers
        )
        made[num_workers] = prepare_data(request, TokenCache(directory / f"cache-{num_workers}"))
    assert not _children()
    return made


@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_data_do_not_depend_on_the_number_of_processes(num_workers: int, prepared: dict[int, PreparedData]) -> None:
    one, more = prepared[1], prepared[num_workers]
    assert one.fingerprint() == more.fingerprint() and one.counts == more.counts and one.problems == more.problems
    for name in ("ids", "is_trained", "starts", "num_targets", "lines"):
        assert (getattr(one.stores[0], name) == getattr(more.stores[0], name)).all(), name
    assert (one.plan.members == more.plan.members).all() and (one.plan.starts == more.plan.starts).all()
    assert one.counts.rows == 256 * 6 + 1 and one.problems.counts["NO_REPLY"] == 1 and one.counts.tokens_split > 0


def test_results_come_in_the_order_of_the_jobs(tokenizer_dir: Path) -> None:
    jobs = [_job(*[_chat(str(i))] * (300 if i % 3 == 0 else 1), first=1000 * i + 1) for i in range(12)]
    expected = [RowPipeline(PipelineSpec(tokenizer_dir)).process(job.chunk, job.path, job.format) for job in jobs]
    with WorkerPool(PipelineSpec(tokenizer_dir), 3) as pool:
        for result, wanted in zip(pool.run(iter(jobs)), expected, strict=True):
            assert result.lines[0] == wanted.lines[0] and (result.ids == wanted.ids).all()
    assert not _children()


def test_jobs_are_taken_as_they_are_needed(tokenizer_dir: Path) -> None:
    taken = []

    def jobs() -> Any:
        for i in range(50):
            taken.append(i)
            yield _job({"text": "Water boils."}, format="text")

    with WorkerPool(PipelineSpec(tokenizer_dir), 2) as pool:
        results = pool.run(jobs())
        next(results)
        assert len(taken) <= 5
        assert len(list(results)) == 49


def test_rows_can_be_shown_from_any_thread(tokenizer_dir: Path) -> None:
    shown: dict[int, str] = {}
    with WorkerPool(PipelineSpec(tokenizer_dir), 2) as pool:

        def show(i: int) -> None:
            view = pool.show(ShowJob(json.dumps(_chat(f"row {i}")).encode(), f"d.jsonl:{i}", "messages"))
            shown[i] = view.messages[0][1]

        threads = [threading.Thread(target=show, args=[i]) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown == {i: f"row {i}" for i in range(8)}


def _run(tokenizer_dir: Path, template: str | None, job: Job, tmp_path: Path, **limits: int) -> ChunkResult:
    path = None
    if template is not None:
        path = tmp_path / "t.jinja"
        path.write_text(template)
    with WorkerPool(PipelineSpec(tokenizer_dir, path, **limits), 1) as pool:
        [result] = pool.run([job])
    return result


HOSTILE: dict[str, tuple[str, str]] = {
    "loops for ever": (LOOPS, r"did not end within 1 s of CPU time"),
    "writes for ever": (LOOPS.replace("{% endfor %}", "xxxxxxxx{% endfor %}", 1), r"CPU time|of memory"),
    "builds a gigabyte": ("{% set x = 'x' * 10**9 %}", r"took more than [\d.]+ GiB of memory"),
    "builds a list": ("{% set x = [0] * 10**9 %}", r"took more than [\d.]+ GiB of memory"),
    "formats a gigabyte": ("{{ '%1000000000d' % 1 }}", r"took more than [\d.]+ GiB of memory"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_that_takes_the_machine_is_stopped(case: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    template, words = HOSTILE[case]
    # Only a loop may meet the limit on CPU time: on a slow machine the pages of a quarter of a gigabyte take a second.
    limits = {"first_cpu_s": 1 if "CPU time" in words else 60, "first_memory_bytes": 2**28}
    with pytest.raises(DataError, match=words) as caught:
        _run(tokenizer_dir, template + tiny_models.CHATML, _job(_chat(), _chat()), tmp_path, **limits)
    assert caught.value.exit_code == 4 and caught.value.message.startswith("d.jsonl:1 to 2: the chat template ")
    assert "chat_template.jinja" in caught.value.hint and not _children()


def test_the_limits_are_for_templates_and_not_for_long_rows(tokenizer_dir: Path, tmp_path: Path) -> None:
    """A book as the first row takes its time, whatever the template does."""
    text = "Nébuleuse, 你好! " * 120_000  # 2.6 MB, most of its bytes a token each
    limits = {"first_cpu_s": 1, "first_memory_bytes": 2**27}
    result = _run(tokenizer_dir, None, _job({"text": text}, format="text"), tmp_path, **limits)
    assert result.lengths[0] == 4096 and result.counts.tokens_cut > 1_000_000


def test_after_the_first_chunk_the_limits_are_lifted(tokenizer_dir: Path) -> None:
    spec = PipelineSpec(tokenizer_dir, first_cpu_s=1, first_memory_bytes=2**27)
    with WorkerPool(spec, 1) as pool:
        results = list(pool.run([_job(_chat()), *[_job(_chat("q", "water " * 150_000))] * 2]))
    assert [len(result.lengths) for result in results] == [1, 1, 1]


def _no_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def _no_template(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()


@pytest.mark.parametrize(("damage", "words"), [(_no_tokenizer, "tokenizer.json"), (_no_template, "no chat template")])
def test_what_a_worker_cannot_do_is_said_as_if_there_were_none(
    damage: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    tiny_models.write_tokenizer(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ModelError, match=words) as caught, WorkerPool(PipelineSpec(tmp_path / "model"), 1) as pool:
        list(pool.run([_job(_chat())]))
    assert caught.value.hint and not _children()


def test_an_error_of_one_row_does_not_end_a_worker(tokenizer_dir: Path) -> None:
    odd = os.fsdecode(b"K\xf6ln.jsonl")
    with WorkerPool(PipelineSpec(tokenizer_dir), 1) as pool:
        results = list(pool.run([_job([], path=odd), _job(_chat(), path=odd)]))
    assert results[0].problems.first_error is not None
    assert results[0].problems.first_error.message.startswith(f"{odd}:1: ") and len(results[1].lengths) == 1


SCRIPT = """
import sys
from pathlib import Path
from xtuner.data.cache import TokenCache
from xtuner.data.options import SourceSpec
from xtuner.data.prepare import DataRequest, prepare_data
print("once")
request = DataRequest([SourceSpec("d.jsonl")], Path({tokenizer!r}), num_workers=2)
print(len(prepare_data(request, TokenCache(Path("cache"))).stores[0]), "rows")
"""


@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_script_without_a_main_guard(from_stdin: bool, tokenizer_dir: Path, tmp_path: Path) -> None:
    script = SCRIPT.format(tokenizer=str(tokenizer_dir))
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "d.jsonl").write_text('{"text": "Water boils."}\n' * 3)
    done = subprocess.run(
        [sys.executable, "-" if from_stdin else "script.py"],
        input=script if from_stdin else None,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == "once\n3 rows\n" and done.stderr == ""


def test_modules_in_the_working_directory_are_not_run(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the data's, and anybody's."""
    for name in ("numpy", "json", "xtuner", "resource"):
        (tmp_path / f"{name}.py").write_text("open('was_run', 'w')\nraise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with WorkerPool(PipelineSpec(tokenizer_dir), 1) as pool:
        [result] = pool.run([_job({"text": "Water boils."}, format="text")])
    assert len(result.lengths) == 1 and not (tmp_path / "was_run").exists()

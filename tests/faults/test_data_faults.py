"""Preparing data under fire: killed, interrupted, out of disk, twice at once. Nothing half-made is taken for whole, and
no process outlives its run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_models
from processes import children_of, is_running, wait_for, wait_until_gone

from xtuner.data.cache import TokenCache
from xtuner.data.options import SourceSpec
from xtuner.data.prepare import DataRequest, Progress, prepare_data
from xtuner.data.prepared import PreparedData
from xtuner.errors import DataError, EnvironmentFault

NUM_ROWS = 256 * 40
# Well-behaved until it meets a certain row.
TRAP = (
    "{% for m in messages %}{% if m.content == 'trap' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}{% endfor %}" + tiny_models.CHATML
)
# Prepares data with two workers; says when it begins, at each chunk, and what came of it.
PREPARE = """
import sys
from pathlib import Path
from xtuner.data.cache import TokenCache
from xtuner.data.options import SourceSpec
from xtuner.data.prepare import DataRequest, prepare_data
from xtuner.errors import XTunerError
data, tokenizer, cache = sys.argv[1:]
print("begin", flush=True)
request = DataRequest([SourceSpec(data)], Path(tokenizer), num_workers=2)
try:
    made = prepare_data(request, TokenCache(Path(cache)), lambda progress: print("rows", progress.rows, flush=True))
except XTunerError as error:
    sys.exit(print("error", error.exit_code, error.message, flush=True))
print("made", made.fingerprint(), flush=True)
"""


def _chat(question: str, answer: str = "Water boils at one hundred degrees. " * 8) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class Setup:
    """A file of 40 chunks, a tokenizer and a cache."""

    def __init__(self, directory: Path) -> None:
        self.data, self.tokenizer, self.cache = directory / "d.jsonl", directory / "tokenizer", directory / "cache"
        tiny_models.write_tokenizer(self.tokenizer)
        self.write(_chat(str(i)) for i in range(NUM_ROWS))

    def write(self, rows: Iterator[Any]) -> None:
        with self.data.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def prepare(self, on_progress: Callable[[Progress], None] | None = None) -> PreparedData:
        request = DataRequest([SourceSpec(str(self.data))], self.tokenizer, num_workers=2)
        return prepare_data(request, TokenCache(self.cache), on_progress)

    def start(self, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", PREPARE, *map(str, (self.data, self.tokenizer, self.cache))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def left(self, pattern: str) -> list[Path]:
        return list((self.cache / "stores").glob(pattern))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def _wait_for(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return
    raise AssertionError(f"ended before it said {word}: {process.stderr and process.stderr.read()}")


def _worker_processes(pid: int) -> list[psutil.Process]:
    return children_of(pid, "xtuner.data.worker")


def _workers(pid: int) -> list[psutil.Process]:
    """Its workers, once both are there."""
    found: list[psutil.Process] = []

    def are_there() -> bool:
        found[:] = _worker_processes(pid)
        return len(found) == 2

    wait_for(are_there)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_named_with_file_and_lines(number: signal.Signals, setup: Setup) -> None:
    workers: list[psutil.Process] = []

    def kill_one(progress: Progress) -> None:
        if not workers:
            workers.extend(_workers(os.getpid()))
            workers[0].send_signal(number)

    with pytest.raises(EnvironmentFault, match=rf"died \({number.name}\) at .*d\.jsonl:\d+ to \d+$") as caught:
        setup.prepare(kill_one)
    assert caught.value.exit_code == 5 and ("--num-data-workers" in caught.value.hint) == (number == signal.SIGKILL)
    assert not any(map(is_running, workers)) and not setup.left(".*") and not setup.left("v*[0-9a-f]")
    assert setup.prepare().counts.rows == NUM_ROWS


@pytest.mark.parametrize("to_whole_group", [False, True])
@pytest.mark.parametrize("moment", ["begin", "workers", "rows"])
def test_ctrl_c_leaves_no_process_and_no_half_made_store(moment: str, to_whole_group: bool, setup: Setup) -> None:
    process = setup.start()
    _wait_for(process, "begin" if moment == "workers" else moment)
    workers = [] if moment == "begin" else _workers(process.pid)
    if moment == "workers":
        time.sleep(0.05)  # while they import
    (os.killpg if to_whole_group else os.kill)(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    # Its own last words, and none of the workers'.
    assert process.returncode == -signal.SIGINT and stderr.count("\nKeyboardInterrupt") == 1
    wait_until_gone(workers)
    assert not setup.left(".*") and not setup.left("v*[0-9a-f]")


def test_a_run_killed_half_way_is_not_taken_for_a_store(setup: Setup) -> None:
    for moment in ("begin", "rows", "rows 5120"):
        process = setup.start()
        _wait_for(process, moment)
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
        wait_until_gone(workers)
        assert not setup.left("v*[0-9a-f]")
    assert setup.left(".*.tmp")  # the control: it did die in the middle
    assert setup.prepare().counts.rows == NUM_ROWS
    assert TokenCache(setup.cache).sweep() > 0 and not setup.left(".*") and len(setup.left("v*[0-9a-f]")) == 1


def test_a_worker_caught_in_a_template_ends_with_its_run(setup: Setup) -> None:
    """The limits hold for the first chunk; this one is caught later, where it could spin for ever."""
    (setup.tokenizer / "chat_template.jinja").write_text(TRAP)
    setup.write(_chat("trap" if i >= 256 * 20 else str(i)) for i in range(NUM_ROWS))
    process = setup.start()
    _wait_for(process, f"rows {256 * 10}")
    workers = _workers(process.pid)
    time.sleep(1)
    process.kill()
    process.communicate()
    wait_until_gone(workers)


def test_of_two_at_once_only_one_tokenises(setup: Setup) -> None:
    processes = [setup.start() for _ in range(3)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len({lines[-1] for lines in said}) == 1 and said[0][-1].startswith("made ")
    assert sorted(any(line.startswith("rows") for line in lines) for lines in said) == [False, False, True]
    assert len(setup.left("v*[0-9a-f]")) == 1 and not setup.left(".*")


def test_the_one_that_waits_goes_on_when_the_first_is_killed(setup: Setup) -> None:
    first = setup.start()
    _wait_for(first, "rows")
    second = setup.start()
    _wait_for(second, "begin")
    time.sleep(0.5)
    first.kill()
    first.communicate()
    stdout, _ = second.communicate(timeout=120)
    assert f"rows {NUM_ROWS}" in stdout and "made " in stdout


def test_a_template_without_end_is_stopped_by_default(setup: Setup) -> None:
    (setup.tokenizer / "chat_template.jinja").write_text(TRAP)
    setup.write(_chat("trap") for _ in range(3))
    with pytest.raises(DataError, match=r"d\.jsonl:1 to 3: the chat template did not end within 10 s") as caught:
        setup.prepare()
    assert caught.value.exit_code == 4 and not _worker_processes(os.getpid()) and not setup.left(".*")


def test_a_full_disk_is_told_and_leaves_nothing(setup: Setup) -> None:
    """A limit on the size of files stands for the disk: it fails the same call, with EFBIG for ENOSPC."""
    command = ["bash", "-c", 'ulimit -f 200; exec "$@"', "-", sys.executable, "-c", PREPARE]
    arguments = [str(path) for path in (setup.data, setup.tokenizer, setup.cache)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert f"error 5 the cache {setup.cache} cannot be written: File too large" in done.stdout
    assert not setup.left(".*") and not setup.left("v*[0-9a-f]")
    assert setup.prepare().counts.rows == NUM_ROWS


@pytest.mark.parametrize("change", ["append", "replace", "delete"])
def test_data_that_changes_while_it_is_tokenised_is_refused(change: str, setup: Setup) -> None:
    def change_it(progress: Progress) -> None:
        if change == "append":
            with setup.data.open("a") as file:
                file.write(json.dumps(_chat("late")) + "\n")
        elif change == "replace":
            setup.write(_chat(str(i)) for i in range(NUM_ROWS))
        else:
            setup.data.unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"d\.jsonl (changed|vanished) while it was read"):
        setup.prepare(change_it)
    assert not setup.left(".*") and not setup.left("v*[0-9a-f]") and not _worker_processes(os.getpid())


def test_memory_does_not_grow_with_the_file(setup: Setup) -> None:
    """Rows without a reply are read and parsed like others, and cost no time to tokenise."""
    code = (
        PREPARE + "import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)\n"
    )

    def peak_mib(num_rows: int) -> int:
        setup.write(_chat("short") if i == 0 else _chat("x" * 20_000)[:1] for i in range(num_rows))
        arguments = [str(path) for path in (setup.data, setup.tokenizer, setup.cache)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert f"rows {num_rows}" in done.stdout
        return int(done.stdout.splitlines()[-1])

    small, large = peak_mib(500), peak_mib(15_000)  # 10 MB and 300 MB
    assert large - small < 40

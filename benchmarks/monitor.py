"""What watching a run costs: the parser, a work dir of any size, a run that goes on, a chart, the first frame.

    python benchmarks/monitor.py --megabytes 1000

makes a work dir of that size (8 ranks, text logs and metrics; removed in the end) and prints Markdown tables. Each
measurement has a process of its own; times are CPU seconds, so that other work on the machine weighs less, and the
best of some rounds where one round is short.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from monitor_screen import first_frame, keys

from xtuner.run.blocks import read_log, read_metrics_block, read_others
from xtuner.run.derived import Smoothed
from xtuner.run.discover import discover
from xtuner.run.feed import Feed
from xtuner.run.health import Health
from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, format_step, parse
from xtuner.run.series import Series
from xtuner.run.store import RunStore
from xtuner.tui.monitor.session import NUM_PROCESSES

NUM_RANKS = 8
_ROUNDS = 15
_NUM_LINES = 100_000
_BLOCK_LINES = 1000  # about what a feed reads in one slice
_BYTES_A_STEP = 760  # a step line and a metrics record
_BEGUN = datetime(2025, 8, 29, 9, 17, 51)


def main() -> None:
    """Run all measurements, each in a process of its own, and print the tables."""
    parser = argparse.ArgumentParser(description="Measure what reading a run costs.")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the work dir")
    parser.add_argument("--directory", type=Path, help="where it is made; a temporary directory by default")
    parser.add_argument("--only", choices=_MEASUREMENTS, help="one measurement, as JSON, for this script itself")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(_MEASUREMENTS[args.only](args)))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        if args.megabytes:
            _write_work_dir(Path(directory) / "work", args.megabytes)
        for name in _MEASUREMENTS:
            _print_table(name, _measure(name, Path(directory), args.megabytes))


def _measure(name: str, directory: Path, megabytes: int) -> dict[str, float]:
    flags = ["--only", name, "--directory", str(directory), "--megabytes", str(megabytes)]
    done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _print_table(name: str, figures: dict[str, float]) -> None:
    print(f"\n| {name} | |\n| --- | ---: |")
    for label, value in figures.items():
        print(f"| {label} | {value:,.0f} |" if value >= 100 else f"| {label} | {value:.3g} |")


def _parser(_: argparse.Namespace) -> dict[str, float]:
    """Each line is read once, as in a file: nothing is warm that would not be there."""
    random = Random(0)
    logs, records = [], []
    for first in range(1, _NUM_LINES + 1, _BLOCK_LINES):
        steps = [(step, step_values(random)) for step in range(first, first + _BLOCK_LINES)]
        logs.append("".join(_line(step, 0, values) + "\n" for step, values in steps).encode())
        records.append(
            "".join(_record(step, {**values, **_not_in_logs(values)}) + "\n" for step, values in steps).encode()
        )
    lines = [line.decode() for block in logs for line in block.splitlines()]
    return {
        "step lines/s, one by one": _per_second(parse, lines),
        "step lines/s, as blocks": _per_second(lambda block: read_log(block, 0), logs),
        "step lines/s passed over, looking for other lines": _per_second(read_others, logs),
        "metrics records/s": _per_second(lambda block: read_metrics_block(block, 0), records),
    }


def _per_second(read: Callable[[Any], object], parts: Sequence[object]) -> float:
    begin = time.process_time()
    for part in parts:
        read(part)
    return _NUM_LINES / (time.process_time() - begin)


def _best_s(action: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        begin = time.process_time()
        action()
        times.append(time.process_time() - begin)
    return min(times)


def _work_dir(args: argparse.Namespace) -> dict[str, float]:
    before_mib = _peak_mib()
    begin, begin_wall = time.process_time(), time.perf_counter()
    (files,) = discover(args.directory / "work")
    feed, store = Feed(files), RunStore(files)
    slowest_poll_s = newest_s = newest_wall_s = 0.0
    while not feed.is_whole:
        begin_poll = time.process_time()
        store.apply(feed.poll(), time.time())
        slowest_poll_s = max(slowest_poll_s, time.process_time() - begin_poll)
        if feed.has_newest and not newest_s:
            newest_s, newest_wall_s = time.process_time() - begin, time.perf_counter() - begin_wall
    whole_s, whole_wall_s = time.process_time() - begin, time.perf_counter() - begin_wall
    series = [series for rank in store.ranks.values() for series in rank.series.values()]
    size = sum(path.stat().st_size for path in files.path.rglob("*") if path.is_file())
    return {
        "size, MB": size / 1e6,
        "numbers": sum(map(len, series)),
        "current state, CPU s": newest_s,
        "current state, s": newest_wall_s,
        "all history, CPU s": whole_s,
        "all history, s": whole_wall_s,
        "slowest poll of 20 ms and its store, CPU ms": slowest_poll_s * 1e3,
        "memory for it, MiB": _peak_mib() - before_mib,
    }


def _work_dir_in_processes(args: argparse.Namespace) -> dict[str, float]:
    """As the dashboard reads it."""
    (files,) = discover(args.directory / "work")
    begin, begin_wall = time.process_time(), time.perf_counter()
    feed, store = Feed(files, num_processes=NUM_PROCESSES), RunStore(files)
    while not feed.is_whole:
        store.apply(feed.poll(), time.time())
    feed.close()
    return {
        "processes": NUM_PROCESSES,
        "all history, s": time.perf_counter() - begin_wall,
        "of that, CPU s of the screen's process": time.process_time() - begin,
    }


def _steady_few(args: argparse.Namespace) -> dict[str, float]:
    return _steady(args.directory / "few", num_ranks=NUM_RANKS, steps_per_s=2, seconds=20)


def _steady_many(args: argparse.Namespace) -> dict[str, float]:
    return _steady(args.directory / "many", num_ranks=1024, steps_per_s=1, seconds=10, has_metrics=False)


def _steady(
    work_dir: Path, *, num_ranks: int, steps_per_s: int, seconds: int, has_metrics: bool = True
) -> dict[str, float]:
    """Seconds of a run, written between the polls and not waited for; two polls a second, health every two seconds."""
    run, random, clock = RunDir.create(work_dir), Random(0), [0.0]
    append_steps(run, num_ranks, range(1, 201), random, has_metrics=has_metrics)
    (files,) = discover(run.path)
    feed, store = Feed(files, clock=lambda: clock[0]), RunStore(files)
    health = Health(store)
    store.apply(feed.poll(), time.time())
    poll_s, most_open = 0.0, 0
    for second in range(seconds):
        for half in range(2):
            if steps_per_s == 2 or half == 0:
                step = 201 + second * steps_per_s + half
                append_steps(run, num_ranks, range(step, step + 1), random, has_metrics=has_metrics)
            clock[0] += 0.5
            begin = time.process_time()
            store.apply(feed.poll(), time.time())
            if half == 0 and second % 2 == 0:
                store.refresh(time.time())
                health.check(time.time())
            poll_s += time.process_time() - begin
            most_open = max(most_open, len(os.listdir("/proc/self/fd")))
    assert store.step == 200 + seconds * steps_per_s, "everything was read"
    return {
        "files": len(files.logs) + len(files.metrics),
        "share of a core, %": 100 * poll_s / seconds,
        "files open between polls": most_open,
        "peak memory of the process, MiB": _peak_mib(),
    }


def _columns(_: argparse.Namespace) -> dict[str, float]:
    random = Random(0)
    charts = [Series() for _ in range(4)]
    for series in charts:
        series.extend(range(100_000), [random.gauss(0, 1) for _ in range(100_000)])
    smoothed = [Smoothed(series, 0.9) for series in charts]
    begin = time.process_time()
    for view in smoothed:
        len(view)
    first_s = time.process_time() - begin
    return {
        "200 columns of 4 x 100,000 points, ms": 1e3 * _best_s(lambda: [s.columns(0, 99_999, 200) for s in charts]),
        "the same, smoothed, ms": 1e3 * _best_s(lambda: [s.columns(0, 99_999, 200) for s in smoothed]),
        "smoothing them for the first time, ms": 1e3 * first_s,
    }


def _first_frame(args: argparse.Namespace) -> dict[str, float]:
    return first_frame(args.directory / "work")


def _keys(args: argparse.Namespace) -> dict[str, float]:
    return keys(args.directory / "work")


_MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "parser": _parser,
    "work dir": _work_dir,
    "work dir, read in processes": _work_dir_in_processes,
    "8 ranks, 2 steps/s": _steady_few,
    "1,024 rank files, 1 line/s": _steady_many,
    "columns": _columns,
    "first frame": _first_frame,
    "keys while the history is read": _keys,
}


def _write_work_dir(work_dir: Path, megabytes: int) -> None:
    run, random = RunDir.create(work_dir), Random(0)
    num_steps = max(1, megabytes * 1_000_000 // _BYTES_A_STEP // NUM_RANKS)
    for begin in range(1, num_steps + 1, 10_000):
        append_steps(run, NUM_RANKS, range(begin, min(begin + 10_000, num_steps + 1)), random)


def append_steps(
    run: RunDir,
    num_ranks: int,
    steps: range,
    random: Random,
    *,
    has_metrics: bool = True,
    keys: Sequence[str] | None = None,
) -> None:
    """Write steps as ranks do, with all values or those of `keys`.

    The numbers differ from step to step and not from rank to rank, which writing is faster for.
    """
    rows = [(step, step_values(random)) for step in steps]
    exact = [(step, {**values, **_not_in_logs(values)}) for step, values in rows]
    if keys is not None:
        rows = exact = [(step, {key: values[key] for key in keys}) for step, values in rows]
    records = "".join(_record(step, values) + "\n" for step, values in exact)
    text = "".join(_line(step, 0, values) + "\n" for step, values in rows)
    for rank in range(num_ranks):
        with run.rank_log(rank).open("a") as file:
            file.write(text.replace("[RANK 0]", f"[RANK {rank}]"))
        if has_metrics:
            with run.rank_metrics(rank).open("a") as file:
                file.write(records)


def step_values(random: Random) -> dict[str, float]:
    """The numbers of a step of a healthy run."""
    tokens, seconds = float(random.randint(3900, 4096)), random.uniform(4.9, 5.1)
    return {
        "data_time": random.uniform(0, 0.1),
        "lr": random.uniform(1e-6, 6e-5),
        "time": seconds,
        "text_tokens": tokens,
        "total_loss": random.gauss(1.7, 0.1),
        "reduced_llm_loss": random.gauss(1.7, 0.05),
        "max_memory": random.uniform(15.8, 16.0),
        "reserved_memory": 17.87,
        "grad_norm": random.uniform(1, 2),
        "tgs": tokens / seconds,
        "e2e_tgs": random.uniform(790, 810),
    }


def _line(step: int, rank: int, values: dict[str, float]) -> str:
    return format_step(StepLine(step, 10_000_000, values, _BEGUN + timedelta(seconds=5 * step), rank=rank))


def _record(step: int, values: dict[str, float]) -> str:
    position = {"step": step, "total_steps": 10_000_000, "timestamp": _BEGUN.timestamp() + 5 * step}
    return json.dumps({**position, **values})


def _not_in_logs(values: dict[str, float]) -> dict[str, float]:
    return {"token_accuracy": values["total_loss"] / 4, "tflops": values["tgs"] / 10}


def _peak_mib() -> float:
    # Not getrusage: what it says of a new process includes the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()

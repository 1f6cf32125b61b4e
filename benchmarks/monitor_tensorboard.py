"""The dashboard and TensorBoard on the same scalars: the time to the whole curve, and the memory for it.

    python benchmarks/monitor_tensorboard.py --num-steps 100000

writes 8 ranks x 8 values of so many steps as TensorBoard's event files and as a run directory of ours, and starts
both programs in turn on them. TensorBoard's curve is there when its server answers with the last step of the loss;
it keeps 1,000 points of each curve by default (`--samples-per-plugin`), the dashboard all. Memory is the share of
each program (PSS) with its child processes, when the curve is there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import psutil
from monitor import NUM_RANKS, append_steps, step_values
from monitor_screen import watch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from xtuner.run.layout import RunDir

KEYS = ("lr", "time", "text_tokens", "total_loss", "reduced_llm_loss", "max_memory", "grad_norm", "tgs")


def main() -> None:
    """Write the scalars, start both programs in turn, and print the table."""
    parser = argparse.ArgumentParser(description="Compare the dashboard with TensorBoard.")
    parser.add_argument("--num-steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where the files are written; a temporary directory by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        events, work = Path(directory) / "events", Path(directory) / "work"
        _write_events(events, args.num_steps)
        append_steps(RunDir.create(work), NUM_RANKS, range(1, args.num_steps + 1), Random(0), keys=KEYS)
        rounds = [(_dashboard(work), _tensorboard(events, args.num_steps)) for _ in range(args.rounds)]
    print(f"\n{NUM_RANKS} ranks x {args.num_steps:,} steps x {len(KEYS)} values, medians of {args.rounds} rounds\n")
    print("| | dashboard | TensorBoard | TensorBoard / dashboard |\n| --- | ---: | ---: | ---: |")
    for place, label in enumerate(("the whole curve from process start, s", "memory then, MiB")):
        ours, theirs = ([figures[side][place] for figures in rounds] for side in (0, 1))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {label} | {statistics.median(ours):.3g} | {statistics.median(theirs):.3g} | {spread} |")


def _write_events(directory: Path, num_steps: int) -> None:
    random = Random(0)
    writers = [EventFileWriter(str(directory / f"rank{rank}"), max_queue_size=10_000) for rank in range(NUM_RANKS)]
    for step in range(1, num_steps + 1):
        values = step_values(random)
        summary = Summary(value=[Summary.Value(tag=key, simple_value=values[key]) for key in KEYS])
        for writer in writers:
            writer.add_event(Event(wall_time=float(step), step=step, summary=summary))
    for writer in writers:
        writer.close()


def _dashboard(work_dir: Path) -> tuple[float, float]:
    with watch(work_dir) as screen:
        seconds = screen.until_shown(b"tokens  attempt")  # "tokens so far" while there is more to read
        return seconds, screen.memory_mib


def _tensorboard(events: Path, num_steps: int) -> tuple[float, float]:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(events), "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(word for line in server.stderr for word in line.split() if word.startswith("http://"))
        query = f"{address}data/plugin/scalars/scalars?run=rank0&tag=reduced_llm_loss"
        while _last_step(query) != num_steps:
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        return seconds, sum(process.memory_full_info().pss for process in processes) / 2**20
    finally:
        for child in psutil.Process(server.pid).children(recursive=True):
            child.kill()
        server.kill()
        server.wait()


def _last_step(query: str) -> int | None:
    """The last step of the curve; None while the server does not know it yet."""
    try:
        with urllib.request.urlopen(query, timeout=60) as answer:
            points = json.load(answer)
    except (urllib.error.URLError, json.JSONDecodeError):
        return None
    return points[-1][1] if points else None


if __name__ == "__main__":
    main()

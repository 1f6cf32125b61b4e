"""From a file of chats to packed batches: XTuner and TRL side by side, and the pack plan of ten million rows.

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0 datasets psutil
    python benchmarks/data.py --trl-python trl/bin/python

makes 50,000 chats and a tokenizer (kept in `--directory`), then runs the two in turn, each in a process of its own
with empty caches, and prints a Markdown table of medians and of ratios taken round by round. Without `--trl-python`
only XTuner is measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_ROWS = {
    "prepare_s": "file to packed data, s",
    "rows_per_s": "rows/s",
    "cpu_s": "CPU time of all processes from their start, s",
    "first_batch_s": "first batch from process start, s",
    "peak_pss_gib": "peak memory, GiB",
    "waste": "empty share of the packs",
}


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description="Compare the data paths of XTuner and TRL.")
    parser.add_argument("--trl-python", help="Python of an environment with TRL")
    parser.add_argument("--directory", type=Path, default=Path("benchmark_data"), help="where the input is kept")
    parser.add_argument("--num-rows", type=int, default=50_000)
    parser.add_argument("--num-proc", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not (args.directory / "chats.jsonl").exists():
        _run([sys.executable, HERE / "chats.py", args.directory, "--num-rows", str(args.num_rows)])
    for num_proc in args.num_proc:
        _compare(args.directory, num_proc, args.rounds, args.trl_python)
    _plan_ten_million()


def _compare(directory: Path, num_proc: int, rounds: int, trl_python: str | None) -> None:
    programs = {"xtuner": [sys.executable, HERE / "xtuner_data.py"]}
    if trl_python:
        programs["trl"] = [trl_python, HERE / "trl_data.py"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    flags = ["--tokenizer", directory / "tokenizer", "--data", directory / "chats.jsonl", "--num-proc", str(num_proc)]
    for number in range(rounds):
        for name, program in programs.items():
            print(f"round {number + 1} of {rounds}, {num_proc} processes: {name}", file=sys.stderr, flush=True)
            begun_s = _children_cpu_s()
            figures = json.loads(_run([*program, *flags]).splitlines()[-1])
            rows_per_s = figures["rows"] / figures["prepare_s"]
            results[name].append({**figures, "rows_per_s": rows_per_s, "cpu_s": _children_cpu_s() - begun_s})
    _print_table(results, num_proc)


def _children_cpu_s() -> float:
    """Less than wall time depends on what else the machine does; XTuner's second start is in it."""
    used = os.times()
    return used.children_user + used.children_system


def _print_table(results: dict[str, list[dict[str, Any]]], num_proc: int) -> None:
    ours, theirs = results["xtuner"], results.get("trl", [])
    first = ours[0]
    print(
        f"\n{first['rows']:,} chats, {first['tokens']:,} tokens, {num_proc} processes, medians of {len(ours)} rounds\n"
    )
    print("| | XTuner | TRL | TRL / XTuner |\n| --- | --- | --- | --- |")
    for key, label in _ROWS.items():
        cells = [_number(statistics.median(run[key] for run in runs)) if runs else "-" for runs in (ours, theirs)]
        ratios = [b[key] / a[key] for a, b in zip(ours, theirs, strict=False) if a[key]]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-")
        print(f"| {label} | {' | '.join(cells)} |")
    second = statistics.median(run["second_prepare_s"] for run in ours)
    print(f"| the same data again, s | {second:.3f} | - | - |")
    if theirs:
        same = all(a[key] == b[key] for key in ("tokens", "trained_tokens") for a, b in zip(ours, theirs, strict=True))
        print(f"\ntokens and trained tokens are {'the same in both' if same else 'DIFFERENT'}")


def _plan_ten_million() -> None:
    """In a process of its own, so that the peak is that of planning."""
    program = (
        "import resource, time, numpy as np\n"
        "from xtuner.data.packing import plan_packs\n"
        "lengths = np.clip(np.random.default_rng(0).lognormal(5.75, 0.75, 10_000_000), 1, 4096).astype(np.int64)\n"
        "begin = time.perf_counter()\n"
        "plan = plan_packs(lengths, 4096)\n"
        "seconds = time.perf_counter() - begin\n"
        "waste = 1 - lengths.sum() / (len(plan) * 4096)\n"
        "peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "print(f'{len(plan):,} packs in {seconds:.1f} s, {100 * waste:.3f} % of their room empty, "
        "peak memory {peak_gib:.2f} GiB')\n"
    )
    print(f"\npack plan of 10,000,000 lengths: {_run([sys.executable, '-c', program]).strip()}")


def _run(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[1]} failed with exit code {done.returncode}")
    return done.stdout


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


if __name__ == "__main__":
    main()

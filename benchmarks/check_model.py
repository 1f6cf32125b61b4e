"""What `xtuner check-model` costs: on the largest models, on a small one from the shell, and on every byte.

    python benchmarks/check_model.py

makes model directories in a temporary folder, measures each case in processes of its own, and prints a Markdown table
of medians with the lowest and highest value. `--directory` is where they are made: a place in memory measures the
program, a disk measures the disk. Only the header of a shard of the large model takes space; its data is one number
a tensor.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_SHARDS, TENSORS_PER_SHARD = 160, 600
_INSPECT = """
import json, resource, sys, time
from xtuner.hub.model_dir import inspect_model
begin = time.perf_counter()
report = inspect_model(sys.argv[1], is_deep=len(sys.argv) > 2)
seconds = time.perf_counter() - begin
assert report.ok, report.findings
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}))
"""


def main() -> None:
    """Make the directories, run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure xtuner check-model.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, help="where the models are made  [default: a temporary folder]")
    parser.add_argument("--deep-gib", type=float, default=1.0, help="size of the weights that --deep reads")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        large, small, deep = (Path(folder, name) for name in ("large", "small", "deep"))
        _make_large(large)
        _make_small(small)
        _make_small(deep, num_bytes=int(args.deep_gib * 2**30), has_checksum=True)
        inspected = [_inspect(large) for _ in range(args.rounds)]
        whole = [_time_command(small) for _ in range(args.rounds)]
        bare = [_time([sys.executable, "-c", "pass"]) for _ in range(args.rounds)]
        read = [_inspect(deep, "--deep") for _ in range(args.rounds)]
    print(f"medians of {args.rounds} runs (lowest to highest), Python {sys.version.split()[0]}\n")
    print("| | | goal |\n| --- | --- | --- |")
    size = f"{NUM_SHARDS} shards x {TENSORS_PER_SHARD} tensors"
    _print_row(f"{size}, s", [run["seconds"] for run in inspected], "1")
    _print_row(f"{size}, peak memory of the process, MB", [run["peak_mb"] for run in inspected], "200")
    _print_row("`xtuner check-model` on a small directory, whole process, s", whole, "0.25")
    _print_row("of that, `python -c pass`, s", bare, "-")
    speeds = [args.deep_gib / run["seconds"] for run in read]
    _print_row("`--deep`, values and SHA-256 of one file, GiB/s", speeds, "-")
    _print_row("`--deep`, peak memory of the process, MB", [run["peak_mb"] for run in read], "-")


def _make_large(directory: Path) -> None:
    """As DeepSeek-V3 has it: each shard a layer of experts."""
    weight_map = {}
    _write_texts(directory, model_type="deepseek_v3", num_hidden_layers=NUM_SHARDS)
    for shard in range(NUM_SHARDS):
        name = f"model-{shard + 1:05d}-of-{NUM_SHARDS:05d}.safetensors"
        tensors = [f"model.layers.{shard}.mlp.experts.{n // 3}.{n % 3}_proj.weight" for n in range(TENSORS_PER_SHARD)]
        entries = ({"dtype": "BF16", "shape": [1, 1], "data_offsets": [2 * n, 2 * n + 2]} for n in range(len(tensors)))
        header = _header(dict(zip(tensors, entries, strict=True)))
        data = b"\x3c\x3c" * len(tensors)
        (directory / name).write_bytes(len(header).to_bytes(8, "little") + header + data)
        weight_map |= dict.fromkeys(tensors, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _make_small(directory: Path, num_bytes: int = 2**20, *, has_checksum: bool = False) -> None:
    _write_texts(directory, model_type="tiny", num_hidden_layers=1)
    num_rows = num_bytes // 2048
    entry = {"dtype": "BF16", "shape": [num_rows, 1024], "data_offsets": [0, num_rows * 2048]}
    header = _header({"model.embed_tokens.weight": entry})
    block = bytes(byte & 0x3F if n % 2 else byte for n, byte in enumerate(os.urandom(2**20)))  # small numbers
    path = directory / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for begin in range(0, num_rows * 2048, len(block)):
            file.write(block[: num_rows * 2048 - begin])
    if has_checksum:
        digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
        folder = directory / ".cache" / "huggingface" / "download"
        folder.mkdir(parents=True)
        (folder / f"{path.name}.metadata").write_text(f"revision\n{digest}\n{time.time()}\n")


def _header(tensors: dict[str, object]) -> bytes:
    """As the safetensors library writes it: compact, padded to a multiple of 8."""
    header = json.dumps(tensors, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)


def _write_texts(directory: Path, **config: object) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"architectures": ["XForCausalLM"], "eos_token_id": 0, **config}))
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "chat_template.jinja").write_text("{{ messages }}")


def _inspect(directory: Path, *flags: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", _INSPECT, directory, *flags], stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _time_command(directory: Path) -> float:
    return _time([str(Path(sys.executable).with_name("xtuner")), "check-model", str(directory)])


def _time(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def _print_row(name: str, values: list[float], goal: str) -> None:
    median, low, high = (f"{value:.3g}" for value in (statistics.median(values), min(values), max(values)))
    print(f"| {name} | {median} ({low} to {high}) | {goal} |")


if __name__ == "__main__":
    main()

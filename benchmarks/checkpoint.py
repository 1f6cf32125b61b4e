"""What a checkpoint costs beside the bare writing of its bytes.

    python benchmarks/checkpoint.py --size-mib 512

One rank saves a model of random weights with AdamW's state, in turn with a program that writes as many bytes into one
file and makes it durable. Prints a Markdown table of medians over the rounds; ratios are taken round by round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_BYTES_A_PARAMETER = 12  # the parameter and AdamW's two moments, in float32
_WIDTH = 1024


def main() -> None:
    """Measure the rounds, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description="Measure saving and restoring a checkpoint.")
    parser.add_argument("--size-mib", type=int, default=512, help="of one checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--one-round", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_round:
        print(json.dumps(one_round(args.one_round, args.size_mib)))
        return
    rounds = []
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            command = [sys.executable, __file__, "--size-mib", str(args.size_mib), "--one-round", directory]
            rounds.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    print_table(rounds, args.size_mib)


def one_round(directory: Path, size_mib: int) -> dict[str, float]:
    """Seconds of a bare write, of a save and its parts, and of a restore."""
    raw_s = _raw_write(directory / "raw", size_mib)
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from xtuner.run import checkpoints
    from xtuner.run.layout import RunDir
    from xtuner.v1.checkpoint.restore import restore_checkpoint
    from xtuner.v1.checkpoint.save import Snapshot, save_checkpoint
    from xtuner.v1.engine.distributed import mesh_of_ranks

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    num_layers = max(1, size_mib * 2**20 // (_BYTES_A_PARAMETER * _WIDTH**2))
    model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(num_layers)))
    fully_shard(model, mesh=mesh_of_ranks("cpu", 1))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, _WIDTH)).sum().backward()
    optimizer.step()

    timed = _Timer()
    checkpoints.sha256_of = timed.around(checkpoints.sha256_of)
    run_dir = RunDir.create(directory)
    device = torch.device("cpu")
    begun_at = time.perf_counter()
    snapshot = Snapshot.take(model, [optimizer], device)
    checkpoint = save_checkpoint(snapshot, run_dir, 1, facts={"world_size": 1})
    save_s, hash_s = time.perf_counter() - begun_at, timed.seconds
    begun_at = time.perf_counter()
    copy = Snapshot.take(model, [optimizer], device).copied()
    stall_s = time.perf_counter() - begun_at
    del copy
    begun_at = time.perf_counter()
    assert checkpoints.fault_of(checkpoint) is None
    verify_s = time.perf_counter() - begun_at
    begun_at = time.perf_counter()
    restore_checkpoint(model, [optimizer], checkpoint, device=device)
    restore_s = time.perf_counter() - begun_at
    shutil.rmtree(run_dir.path)
    dist.destroy_process_group()
    return {
        "raw": raw_s,
        "save": save_s,
        "hash": hash_s,
        "stall": stall_s,
        "verify": verify_s,
        "restore": restore_s,
    }


class _Timer:
    """Adds up the seconds of the calls of a function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function):
        def call(*arguments):
            begun_at = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - begun_at

        return call


def _raw_write(path: Path, size_mib: int) -> float:
    block = os.urandom(2**20)
    begun_at = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_mib):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun_at
    path.unlink()
    return seconds


def print_table(rounds: list[dict[str, float]], size_mib: int) -> None:
    """Medians, and ratios to the bare write."""
    print(f"\nA checkpoint of {size_mib:,} MiB, medians of {len(rounds)} rounds:\n")
    print("| | s | over the bare write |\n| --- | --- | --- |")
    labels = {
        "raw": "bare write and fsync of as many bytes",
        "save": "a save, whole",
        "hash": "of it hashing, while the disk works",
        "stall": "the copy that training waits for with --async-checkpoint",
        "verify": "looking whether it is whole, every byte",
        "restore": "restoring it",
    }
    for key, label in labels.items():
        seconds = [one[key] for one in rounds]
        ratios = [one[key] / one["raw"] for one in rounds]
        print(
            f"| {label} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()

"""What a checkpoint costs beside the bare writing of its bytes.

    python benchmarks/checkpoint.py --size-mib 512

One rank saves a model of random weights with AdamW's state, in turn with a bare loop that writes the same bytes into
one file and makes it durable, and with a save that neither hashes nor writes a manifest. Prints a Markdown table of
medians over the rounds; ratios are taken round by round.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

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
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from xtuner.run.checkpoints import fault_of
    from xtuner.run.layout import RunDir
    from xtuner.v1.checkpoint import save as saving
    from xtuner.v1.checkpoint.restore import restore_checkpoint
    from xtuner.v1.checkpoint.save import Snapshot, save_checkpoint
    from xtuner.v1.engine.distributed import mesh_of_ranks
    from xtuner.v1.model.shard import local_part

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    num_layers = max(1, size_mib * 2**20 // (_BYTES_A_PARAMETER * _WIDTH**2))
    model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(num_layers)))
    fully_shard(model, mesh=mesh_of_ranks("cpu", 1))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, _WIDTH)).sum().backward()
    optimizer.step()

    run_dir = RunDir.create(directory)
    device = torch.device("cpu")

    def save(step: int) -> Any:
        return save_checkpoint(Snapshot.take(model, [optimizer], device), run_dir, step, facts={"world_size": 1})

    def save_unnamed(step: int) -> None:
        with (
            mock.patch("xtuner.run.hashed_file.hashlib.sha256", _NoDigest),
            mock.patch.object(saving, "commit", lambda *_: True),
        ):
            save(step)

    save(1)  # what is imported and made at the first time only
    tensors = Snapshot.take(model, [optimizer], device).tensors.values()
    buffers = [memoryview(local_part(tensor).numpy()).cast("B") for tensor in tensors if tensor.dim()]
    seconds = {
        "raw": _seconds(lambda: _raw_write(directory / "raw-1", buffers)),
        "save": _seconds(lambda: save(2)),
        "unhashed": _seconds(lambda: save_unnamed(3)),
    }
    seconds["raw"] = statistics.mean([seconds["raw"], _seconds(lambda: _raw_write(directory / "raw-2", buffers))])
    seconds["stall"] = _seconds(lambda: Snapshot.take(model, [optimizer], device).copied())
    checkpoint = save(4)
    seconds["verify"] = _seconds(lambda: fault_of(checkpoint))
    seconds["restore"] = _seconds(lambda: restore_checkpoint(model, [optimizer], checkpoint, device=device))
    assert fault_of(checkpoint) is None
    shutil.rmtree(run_dir.path)
    dist.destroy_process_group()
    return seconds


class _NoDigest:
    """Stands for SHA-256 where hashing is not to be measured."""

    def update(self, block: memoryview) -> None:
        """Do nothing."""

    def hexdigest(self) -> str:
        """Nothing."""
        return ""


def _seconds(work: Callable[[], Any]) -> float:
    begun_at = time.perf_counter()
    work()
    return time.perf_counter() - begun_at


def _raw_write(path: Path, buffers: list[memoryview]) -> None:
    with path.open("wb", buffering=0) as file:
        for buffer in buffers:
            for start in range(0, buffer.nbytes, 2**20):
                file.write(buffer[start : start + 2**20])
        os.fsync(file.fileno())


def print_table(rounds: list[dict[str, float]], size_mib: int) -> None:
    """Medians, and ratios to the bare write."""
    print(f"\nA checkpoint of {size_mib:,} MiB, medians of {len(rounds)} rounds:\n")
    print("| | s | over the bare write |\n| --- | --- | --- |")
    labels = {
        "raw": "bare write and fsync of the same bytes",
        "save": "a save, whole",
        "unhashed": "a save without hashes and manifest",
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

"""Several ranks in processes of their own, for tests that call the engine and not the command line."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ports import free_port


def run_ranks(num_ranks: int, function: Callable[..., Any], directory: Path, *arguments: Any) -> list[Any]:
    """`function(mesh, *arguments)` on `num_ranks` gloo ranks; what each returned, by rank."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(_rank, (num_ranks, free_port(), function, directory, arguments), nprocs=num_ranks)
    return [torch.load(directory / f"rank{rank}.pt") for rank in range(num_ranks)]


def _rank(
    rank: int, num_ranks: int, port: int, function: Callable[..., Any], directory: Path, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    from xtuner.v1.engine.distributed import Ranks, join_process_group, leave_process_group

    mesh = join_process_group(Ranks.from_environment())
    torch.save(function(mesh, *arguments), directory / f"rank{rank}.pt")
    leave_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as the training entry does: destructors of gloo's threads abort the interpreter's exit now and then

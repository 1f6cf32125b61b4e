"""The tensors of a checkpoint: the parameters that are trained and the optimizer's state of them, sharded as they are.

Frozen weights and buffers are not among them: they come from the model directory, again and again the same. Through
`torch.distributed.checkpoint` every rank writes the shards it holds, and any number of ranks can read them. State in
8 bits is written as the numbers that it stands for, and rounded again when it is read.
"""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.utils.serialization import config
from transformers import PreTrainedModel

from xtuner.run.faults import point
from xtuner.run.hashed_file import HashedFile
from xtuner.v1.model.shard import local_part
from xtuner.v1.model.tensor_cut import cut_of

_MODEL, _OPTIMIZER = "model.", "optimizer."


def tensors_of(model: PreTrainedModel, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """The state by the names under which it is stored; the tensors are those of the model, not copies."""
    state = _parameters(model)
    for optimizer, parameter, name in _trained(model, optimizers):
        for word, value in optimizer.state[parameter].items():
            state[_key(word, name)] = _as_numbers(value)
    return state


def save_tensors(
    state: dict[str, torch.Tensor], directory: Path, group: dist.ProcessGroup | None = None
) -> dict[Path, HashedFile]:
    """Write `state` into `directory`, which must not hold any; collective in `group`.

    Returns:
        The shards that this rank wrote, each durable. The index of them, `.metadata` of rank 0, is not durable yet.

    Raises:
        CheckpointException: on every rank, if one could not write.
    """
    # Threads of its own would not help here (`thread_count`): an error in one of them is lost (torch 2.13).
    writer = FileSystemWriter(directory, overwrite=False, sync_files=False)
    writer.fs = files = _Files()
    # We have a better sum of each file than that of each tensor, which takes a tenth of the time.
    with config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
        save(state, storage_writer=writer, process_group=group)
    return files.shards


class _Files(FileSystem):
    """The files as DCP opens them.

    Attributes:
        shards: those with tensors, by their paths.
    """

    def __init__(self) -> None:
        self.shards: dict[Path, HashedFile] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[IOBase, None, None]:
        path = Path(path)
        if path.suffix != ".distcp":
            point("save.metadata")
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        point("save.shard")
        self.shards[path] = shard = HashedFile(path)
        try:
            yield cast(IOBase, shard)  # all of it that DCP uses
            shard.close()
        except RuntimeError as error:
            # PyTorch's writer still wants to end its file after a failed write, and then says that alone.
            raise shard.error or error from None
        finally:
            shard.give_up()


def load_tensors(model: PreTrainedModel, optimizers: Iterable[torch.optim.Optimizer], directory: Path) -> None:
    """Put the state of `directory` into the parameters and the optimizers, in place; collective.

    Raises:
        ValueError: it is the state of other parameters.
    """
    reader = FileSystemReader(directory)
    stored = reader.read_metadata().state_dict_metadata
    parameters = _parameters(model)
    if missing := sorted(set(parameters) - set(stored)):
        raise ValueError(f"it has no {missing[0].removeprefix(_MODEL)} (and {len(missing) - 1} more)")
    words = {key.removeprefix(_OPTIMIZER).partition(".")[0] for key in stored if key.startswith(_OPTIMIZER)}
    # The optimizers make their state at their first step only, so there is nothing yet to load into.
    rooms = [
        (optimizer, parameter, word, _key(word, name), _room_for(word, optimizer, parameter))
        for optimizer, parameter, name in _trained(model, optimizers)
        for word in words
        if _key(word, name) in stored
    ]
    load({**parameters, **{key: room for *_, key, room in rooms}}, storage_reader=reader)
    for optimizer, parameter, word, _, room in rooms:
        optimizer.state[parameter][word] = _as_state(word, optimizer, parameter, room)


def _parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {_MODEL + name: p.detach() for name, p in _named_as_stored(model).items()}


def _named_as_stored(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The trained parameters; the cuts of tensor parallel under a name for each rank that holds another one."""
    named: dict[str, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        cut = cut_of(parameter)
        if parameter.requires_grad:
            named[f"{name}@{cut.group.rank()}of{cut.group.size()}" if cut else name] = parameter
    return named


def _trained(
    model: PreTrainedModel, optimizers: Iterable[torch.optim.Optimizer]
) -> Iterator[tuple[torch.optim.Optimizer, torch.Tensor, str]]:
    """Each optimizer's parameters, with the names under which their state is stored."""
    names = {id(parameter): name for name, parameter in _named_as_stored(model).items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, parameter, names[id(parameter)]


def _key(word: str, name: str) -> str:
    """`optimizer.exp_avg.lm_head.weight`: the optimizer's word for a state, and whose it is."""
    return f"{_OPTIMIZER}{word}.{name}"


# --- State in few bits ---


def _as_numbers(value: torch.Tensor) -> torch.Tensor:
    """`value` in float32 where it is torchao's state in 8 bits, else as it is."""
    part = local_part(value)
    if not _is_in_few_bits(part):
        return value
    numbers = part.dequantize()
    if not isinstance(value, DTensor):
        return numbers
    return DTensor.from_local(
        numbers, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


def _is_in_few_bits(part: torch.Tensor) -> bool:
    return type(part) is not torch.Tensor and hasattr(part, "codes")


def _room_for(word: str, optimizer: Any, parameter: torch.Tensor) -> torch.Tensor:
    """Where the numbers of a state are read to."""
    if word == "step":  # AdamW's fused kernel wants it beside the parameter, torchao on the CPU
        device = torch.device("cpu") if _makes_own_state(optimizer) else parameter.device
        return torch.zeros((), dtype=torch.float32, device=device)
    return torch.zeros_like(parameter)


def _as_state(word: str, optimizer: Any, parameter: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """`numbers` as `optimizer` keeps them."""
    if word == "step" or not _makes_own_state(optimizer):
        return numbers
    state = optimizer._new_buffer(parameter, signed=word == "exp_avg")
    local_part(state).copy_(local_part(numbers))
    return state


def _makes_own_state(optimizer: Any) -> bool:
    """Whether it is one of torchao's, which knows for which parameters 8 bits are enough."""
    return hasattr(optimizer, "_new_buffer")

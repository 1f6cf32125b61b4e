"""Exported weights are read back: the names, shapes and dtypes that were meant, and finite numbers."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xtuner.errors import EnvironmentFault


def check_weights(directory: Path, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Compare what the weight files of `directory` hold with dtype and shape of what was written.

    Raises:
        EnvironmentFault: it is something else, or no number.
    """
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    wrong: list[str] = []
    try:
        for path in sorted(directory.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_tensor(name)
                    found[name] = tensor.dtype, tuple(tensor.shape)
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        wrong.append(name)
    except (OSError, SafetensorError) as error:
        wrong.append(f"{path.name} cannot be read: {error}")
    wrong += sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
    if wrong:
        raise EnvironmentFault(
            f"{directory} does not hold what was written: {', '.join(wrong[:5])}",
            hint="the disk may be failing or full; the last checkpoint can be exported elsewhere: xtuner export",
        )

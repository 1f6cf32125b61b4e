"""Which file holds which tensor."""

import json
from pathlib import Path

from xtuner.errors import ModelError
from xtuner.hub.safetensors_header import read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files that loading reads, sorted: those of the index, else the single file, else all.

    Raises:
        ModelError: the index is broken or leads outside the directory.
    """
    if (model_dir / INDEX).is_file():
        return sorted({model_dir / name for name in read_index(model_dir).values()})
    if (model_dir / SINGLE).exists():
        return [model_dir / SINGLE]
    return sorted(path for path in model_dir.glob("*.safetensors") if not path.name.startswith("."))


def read_index(model_dir: Path) -> dict[str, str]:
    """Tensor name to file name, as `model.safetensors.index.json` has it.

    Raises:
        ModelError: it is not such a file, or a name in it is more than a file name.
    """
    path = model_dir / INDEX
    try:
        names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        is_map = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{INDEX} cannot be read: {error}", hint="download the file again") from None
    if not is_map or not names:
        raise ModelError(f"{INDEX} has no weight_map", hint="download the file again")
    for name in names.values():
        if Path(name).name != name or "\\" in name:
            raise ModelError(f"{INDEX} names {name!r}, outside the directory", hint="do not use this download")
    return names


def weight_map(model_dir: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it.

    Raises:
        ModelError: the index or a header is broken.
    """
    if (model_dir / INDEX).is_file():
        return {tensor: model_dir / name for tensor, name in read_index(model_dir).items()}
    return {tensor: path for path in weight_files(model_dir) for tensor in read_header(path).tensors}

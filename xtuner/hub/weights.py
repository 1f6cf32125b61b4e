"""Which file holds which tensor."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from xtuner.hub.findings import HubError, shown, shown_path
from xtuner.hub.regular_file import AGAIN, read_json_object
from xtuner.hub.safetensors_header import read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# The index of a model with 100,000 tensors (mixtures of experts) has about 10 MB.
_MAX_INDEX_BYTES = 100 * 2**20
_NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d{1,5})-of-(?P<count>0*\d{1,3})\.safetensors")


def weight_files(model_dir: Path, index: Mapping[str, str] | None = None) -> list[Path]:
    """The safetensors files that loading reads, sorted: those of the index, else the single file, else all.

    `index` is what `read_index` gave, to save reading it twice. The files need not exist. Adapters
    (`adapter_*.safetensors`) and hidden files are no weights of the model.

    Raises:
        HubError: the index is broken or leads outside the directory; the directory cannot be read.
    """
    if index is None and has_index(model_dir):
        index = read_index(model_dir)
    if index is not None:
        return [model_dir / name for name in sorted(set(index.values()))]
    if os.path.lexists(model_dir / SINGLE):
        return [model_dir / SINGLE]
    try:
        names = os.listdir(model_dir)
    except OSError as error:
        raise HubError("UNREADABLE", f"{shown_path(model_dir)} cannot be read: {error.strerror}") from None
    found = {name for name in names if name.endswith(".safetensors") and not name.startswith((".", "adapter_"))}
    return sorted(model_dir / name for name in found | _numbered_siblings(found))


def _numbered_siblings(names: set[str]) -> set[str]:
    """All files of the sets that `names` are numbered parts of: `x-00001-of-00003` has two siblings."""
    sets = {(match["stem"], match["count"], len(match["number"])) for match in map(_NUMBERED.fullmatch, names) if match}
    return {
        f"{stem}-{number:0{width}}-of-{count}.safetensors"
        for stem, count, width in sets
        for number in range(1, int(count) + 1)
    }


def has_index(model_dir: Path) -> bool:
    """Whether the directory has an index, be it one that leads nowhere."""
    return os.path.lexists(model_dir / INDEX)


def read_index(model_dir: Path) -> dict[str, str]:
    """Tensor name to file name, as `model.safetensors.index.json` has it.

    Raises:
        HubError: as `read_json_object`, or INDEX_BROKEN, INDEX_UNSAFE_NAME (a name that is more than a file name).
    """
    path = model_dir / INDEX
    names = read_json_object(path, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or {*map(type, names.values())} != {str}:
        raise HubError("INDEX_BROKEN", f"{shown_path(path)} has no weight_map from tensors to files", hint=AGAIN)
    for name in sorted(set(names.values())):
        if not name or Path(name).name != name or "\\" in name or "\0" in name or name == "..":
            raise HubError(
                "INDEX_UNSAFE_NAME",
                f"{shown_path(path)} names {shown(name)!r}, which is not a file of this directory",
                hint="do not use this download; get the model from its publisher",
            )
    return names


def weight_map(model_dir: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it; with an index, as it says, without opening the files.

    Raises:
        HubError: a `ModelError`: a broken index or header, no weights (NO_WEIGHTS), a tensor in two files
            (TENSOR_TWICE).
    """
    if has_index(model_dir):
        index = read_index(model_dir)
        paths = {name: model_dir / name for name in set(index.values())}
        return {tensor: paths[name] for tensor, name in index.items()}
    files = weight_files(model_dir)
    if not files:
        hint = f"xtuner check-model {shlex.quote(str(model_dir))} says why"
        raise HubError("NO_WEIGHTS", f"{shown_path(model_dir)} has no safetensors weights", hint=hint)
    return place_tensors({path: read_header(path).tensors for path in files})


def place_tensors(tensors_by_file: Mapping[Path, Iterable[str]]) -> dict[str, Path]:
    """Tensor name to file, where no index says it.

    Raises:
        HubError: TENSOR_TWICE; which of two is meant cannot be known.
    """
    placed: dict[str, Path] = {}
    for path, tensors in tensors_by_file.items():
        for tensor in tensors:
            other = placed.setdefault(tensor, path)
            if other != path:
                raise HubError(
                    "TENSOR_TWICE",
                    f"tensor {shown(tensor)} is in both {shown_path(other)} and {shown(path.name)}",
                    hint=f"keep the files of one copy of the model, or add its {INDEX}",
                )
    return placed

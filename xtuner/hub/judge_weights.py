"""What the weight files of a model directory are worth: every header is read, no data."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from xtuner.hub.findings import Finding, HubError, Severity, fail, info, shown, shown_names, shown_path, warn
from xtuner.hub.safetensors_header import FLOAT_DTYPES, SafetensorsHeader, TensorInfo, read_header
from xtuner.hub.weights import INDEX, has_index, place_tensors, read_index, weight_files

_MAX_BROKEN_SHOWN = 10
# Of huggingface_hub, aria2, curl-like tools and browsers.
_UNFINISHED = (".incomplete", ".aria2", ".part", ".crdownload")
_MODELSCOPE_TEMP = "._____temp"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
# What transformers' own Trainer leaves beside the weights; being there does not make a model.
_NO_WEIGHTS = re.compile(r"training_args\.bin|(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)")
_EMBEDDINGS = (
    *(f".{name}.weight" for name in ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")),
    ".backbone.embeddings.weight",
)
_HEADS = tuple(f".{name}.weight" for name in ("lm_head", "embed_out", "output", "output_layer"))
# Whole numbers under these names are packed weights; elsewhere (attention masks of old models) they are not.
_PACKED = re.compile(r"weight|qzeros|blocks|packed|scales|quant")
_INTEGERS = {"U8", "I8", "I16", "U16", "I32", "U32"}


@dataclass(frozen=True)
class Weights:
    """The weight files that loading reads, their tensors, the headers that could be read, and what was found."""

    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    headers: dict[Path, SafetensorsHeader]
    findings: tuple[Finding, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor is where it should be."""
        return bool(self.files) and not any(finding.severity is Severity.FAIL for finding in self.findings)

    @property
    def num_embedding_rows(self) -> int | None:
        """Rows of the token embedding (the largest, where a model has several), or None where its name is unknown."""
        named = [self.tensors[name] for name in self._ending_with(_EMBEDDINGS)]
        return max((tensor.shape[0] for tensor in named if len(tensor.shape) == 2), default=None)

    @property
    def head_name(self) -> str | None:
        """The name of the output projection, where it is stored."""
        return next(iter(self._ending_with(_HEADS)), None)

    def _ending_with(self, ends: tuple[str, ...]) -> list[str]:
        """The names that end so, or are that end without its dot."""
        wholes = [end[1:] for end in ends if end[1:] in self.tensors]
        return wholes + [name for name in self.tensors if name.endswith(ends)]


def judge_weights(directory: Path, names: list[str]) -> Weights:
    """Read every weight file's header and compare it with the index; `names` is the directory's listing."""
    findings = list(_judge_downloads(directory, names))
    try:
        index = read_index(directory) if has_index(directory) else None
        files = weight_files(directory, index)
    except HubError as error:
        return Weights((), {}, {}, (*findings, error.finding()))
    if not files:
        return Weights((), {}, {}, (*findings, explain_no_weights(directory, names)))
    missing = [path.name for path in files if not os.path.lexists(path)]
    if missing:
        findings.append(_explain_missing(directory, missing, len(files), index is not None))
    headers, broken = _read_headers([path for path in files if path.name not in missing])
    findings += broken
    tensors: dict[str, TensorInfo] = {}
    for header in headers.values():
        tensors |= header.tensors
    if index is not None:
        findings += _compare_with_index(index, headers, names)
        if not tensors.keys() <= index.keys():
            tensors = {name: info for name, info in tensors.items() if name in index}
    elif not missing:
        findings += _judge_unindexed(headers)
    findings += _judge_dtypes(tensors)
    return Weights(tuple(files), tensors, headers, tuple(findings))


def explain_no_weights(directory: Path, names: list[str]) -> Finding:
    """Why a directory has no safetensors weights: what it has instead."""
    where = shown_path(directory)
    if any(name.endswith(".gguf") for name in names):
        message = f"{where} holds GGUF files, which are for running a model and cannot be trained"
        return fail("GGUF_ONLY", message, "get the original model: the one with config.json and safetensors files")
    if any(name.endswith(_PICKLE_SUFFIXES) and not _NO_WEIGHTS.fullmatch(name) for name in names):
        return fail(
            "PICKLE_ONLY",
            f"{where} holds its weights only as pickle files or the like, which can run code when loaded",
            "look for a safetensors revision of the model (refs/convert/safetensors on the Hub), or convert a copy "
            "that you trust: AutoModelForCausalLM.from_pretrained(A).save_pretrained(B) of transformers",
        )
    return fail("NO_WEIGHTS", f"{where} has no weights: no *.safetensors file", "download the model again")


def _judge_downloads(directory: Path, names: list[str]) -> Iterator[Finding]:
    """Unfinished downloads: beside the files, in folders kept for them, or in the cache a snapshot belongs to."""
    unfinished = [name for name in names if name.endswith(_UNFINISHED)]
    places = [directory / ".cache" / "huggingface" / "download", directory / _MODELSCOPE_TEMP]
    if directory.absolute().parent.name == "snapshots":
        places.append(directory.absolute().parent.parent / "blobs")
    for place in filter(os.path.isdir, places):
        try:
            is_all = place.name == _MODELSCOPE_TEMP
            unfinished += sorted(name for name in os.listdir(place) if is_all or name.endswith(".incomplete"))
        except OSError:
            continue
    if unfinished:
        message = f"a download did not end: {shown_names(unfinished)}"
        yield warn("DOWNLOAD_UNFINISHED", message, "run the download again; it goes on where it stopped")


def _explain_missing(directory: Path, missing: list[str], count: int, is_indexed: bool) -> Finding:
    said_by = f"{INDEX} names" if is_indexed else "the numbers in the names say are there"
    message = f"{len(missing)} of {count} weight files that {said_by} are missing: {shown_names(missing)}"
    return fail("SHARD_MISSING", f"{shown_path(directory)}: {message}", "download the missing files")


def _read_headers(files: list[Path]) -> tuple[dict[Path, SafetensorsHeader], list[Finding]]:
    headers: dict[Path, SafetensorsHeader] = {}
    broken: list[tuple[Path, Finding]] = []
    for path in files:
        try:
            headers[path] = read_header(path)
        except HubError as error:
            broken.append((path, error.finding()))
    findings = [finding for _, finding in broken[:_MAX_BROKEN_SHOWN]]
    rest = broken[_MAX_BROKEN_SHOWN:]
    if rest:
        message = f"{len(rest)} more weight files are broken: {shown_names([path.name for path, _ in rest])}"
        findings.append(fail(rest[0][1].code, message, "download these files again"))
    return headers, findings


def _compare_with_index(
    index: dict[str, str], headers: dict[Path, SafetensorsHeader], names: list[str]
) -> Iterator[Finding]:
    held_by = {path.name: header.tensors for path, header in headers.items()}
    placed: dict[str, str] = {}
    for name, held in held_by.items():
        placed |= dict.fromkeys(held, name)
    astray: list[str] = []
    if not index.items() <= placed.items():  # a mixture has 100,000: a look at each is for the broken ones
        astray = [tensor for tensor, name in index.items() if name in held_by and tensor not in held_by[name]]
    if astray:
        message = f"{len(astray)} tensors are not in the file that {INDEX} names: {shown_names(astray)}"
        hint = "index and weight files come from different downloads: download them again"
        yield fail("TENSOR_MISSING", message, hint)
    files = sorted({name for name in names if name.endswith(".safetensors")} - set(index.values()))
    if files:
        yield info("NOT_IN_INDEX", f"weight files that {INDEX} does not name, which are not read: {shown_names(files)}")
    unnamed = sorted(placed.keys() - index.keys())
    if unnamed:
        message = f"{len(unnamed)} tensors that {INDEX} does not name, which are not read: {shown_names(unnamed)}"
        yield info("NOT_IN_INDEX", message)


def _judge_unindexed(headers: dict[Path, SafetensorsHeader]) -> Iterator[Finding]:
    try:
        place_tensors({path: header.tensors for path, header in headers.items()})
    except HubError as error:
        yield error.finding()


def _judge_dtypes(tensors: dict[str, TensorInfo]) -> Iterator[Finding]:
    dtypes = set(map(itemgetter(0), tensors.values()))
    others = dtypes - FLOAT_DTYPES
    packed = [name for name, info in tensors.items() if _is_packed(name, info)] if others else []
    if packed:
        listed = ", ".join(sorted({tensors[name].dtype for name in packed}))
        message = f"{len(packed):,} weights are quantised ({listed}), such as {shown(packed[0])}"
        yield fail("QUANTIZED", message, "train the model that this one was quantised from (see its model card)")
        return
    if len(dtypes - others) > 1:
        matrices = (tensor for tensor in tensors.values() if len(tensor.shape) > 1)
        counts = Counter(tensor.dtype for tensor in matrices if tensor.dtype in FLOAT_DTYPES)
        if len(counts) > 1:
            listed = ", ".join(f"{dtype} ({count:,})" for dtype, count in counts.most_common())
            yield info("MIXED_DTYPES", f"the matrices have several dtypes: {listed}")


def _is_packed(name: str, info: TensorInfo) -> bool:
    if info.dtype.startswith(("F8_", "F6_")) or info.dtype == "F4":
        return True
    return info.dtype in _INTEGERS and bool(_PACKED.search(name.rpartition(".")[2]))

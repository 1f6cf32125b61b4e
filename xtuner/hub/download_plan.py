"""Which files of a repository training needs, and why the others are left out."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from xtuner.errors import ModelError, UsageError
from xtuner.hub.findings import shown, shown_names
from xtuner.hub.weights import INDEX, SINGLE

_STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER_FRAMEWORKS = (".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".mlmodel", ".npz", ".pdparams")
_TOKENIZER_FILES = re.compile(
    r"tokenizer[\w.-]*\.(json|model)|vocab\.(txt|json)|merges\.txt|.*\.tiktoken|.*\.spm|spiece\.model|"
    r"sentencepiece[\w.-]*\.model|.*\.vocab"
)
_LICENCES = re.compile(r"(licen[cs]e|notice|copying|use_policy)[\w.-]*", re.IGNORECASE)
_MAX_NAME_BYTES = 200
_TEMPLATES = re.compile(r"[^/]+\.jinja|additional_chat_templates/[^/]+\.jinja")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: large ones have the sha256 of their content, all have git's sha1 of theirs.

    For a large file git's is that of its LFS pointer.
    """

    path: str
    size: int
    git_sha1: str
    sha256: str | None = None

    @property
    def etag(self) -> str:
        """What the Hub cache calls the content."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class LeftOut:
    """A file that is not fetched, and the reason."""

    file: RemoteFile
    reason: str


@dataclass(frozen=True)
class DownloadPlan:
    """What is fetched of which commit of which repository."""

    repo_id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files of the plan."""
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; the keys are stable."""
        return {
            "repo": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            "size_bytes": self.size_bytes,
            "files": [{"path": file.path, "size_bytes": file.size} for file in self.files],
            "left_out": [
                {"path": item.file.path, "size_bytes": item.file.size, "reason": item.reason} for item in self.left_out
            ],
        }


@dataclass(frozen=True)
class Selection:
    """What the user wants of a repository; without `include`, what training needs."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def split(
        self, files: Iterable[RemoteFile], indexed: Collection[str] | None = None
    ) -> tuple[tuple[RemoteFile, ...], tuple[LeftOut, ...]]:
        """The files to fetch and the files to leave, both sorted by path.

        `indexed` are the weight files that the model's index names, where that had to be looked up.
        """
        listed = sorted(files, key=lambda file: file.path)
        names = {file.path for file in listed}
        reasons = [(file, self._reason_against(file.path, names, indexed)) for file in listed]
        wanted = tuple(file for file, reason in reasons if not reason)
        return wanted, tuple(LeftOut(file, reason) for file, reason in reasons if reason)

    def _reason_against(self, path: str, names: Collection[str], indexed: Collection[str] | None) -> str:
        if not _is_writable_name(path):
            return "a name that is not written to disk"
        excluded_by = next((pattern for pattern in self.exclude if _matches(path, pattern)), None)
        if excluded_by is not None:
            return f"--exclude {shown(excluded_by)}"
        if self.include:
            return "" if any(_matches(path, pattern) for pattern in self.include) else "not in --include"
        return _reason_not_needed(path, names, indexed)


def _is_writable_name(path: str) -> bool:
    """Whether a file may be called so: printable, not too long, and not where downloads keep their own notes."""
    parts = path.split("/")
    return path.isprintable() and all(len(part.encode()) <= _MAX_NAME_BYTES for part in parts) and parts[0] != ".cache"


def _matches(path: str, pattern: str) -> bool:
    """As `hf download` matches: `*` crosses folders, and `folder/` is all below it."""
    return fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)


def _reason_not_needed(path: str, names: Collection[str], indexed: Collection[str] | None) -> str:
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    if _TEMPLATES.fullmatch(path):
        return ""
    if "/" in path:
        return "in a folder: not the model itself"
    if suffix == ".safetensors":
        return _reason_against_weights(path, names, indexed)
    if suffix == ".json" or _TOKENIZER_FILES.fullmatch(path) or _LICENCES.fullmatch(path):
        return ""
    reasons = {".py": "code, which is never run", ".gguf": "GGUF cannot be trained"}
    reasons |= dict.fromkeys(_PICKLES, "pickle, which can run code when loaded")
    reasons |= dict.fromkeys(_OTHER_FRAMEWORKS, "weights of another framework")
    return reasons.get(suffix, "training does not need it")


def _reason_against_weights(path: str, names: Collection[str], indexed: Collection[str] | None) -> str:
    """Many repositories hold the weights twice, as `consolidated.safetensors` or in another precision."""
    if indexed is not None:
        return "" if path in indexed else f"{INDEX} does not name it"
    if INDEX not in names and SINGLE in names and path != SINGLE and not path.startswith("adapter_"):
        return f"the weights are in {SINGLE}"
    return ""


def is_index_needed(files: Iterable[RemoteFile], selection: Selection) -> bool:
    """Whether names alone do not tell which weight files belong to the model."""
    names = {file.path for file in files}
    if selection.include or INDEX not in names:
        return False
    weights = {name for name in names if name.endswith(".safetensors") and "/" not in name}
    return not all(map(_STANDARD_WEIGHTS.fullmatch, weights)) or (SINGLE in weights and len(weights) > 1)


def check_selection(plan: DownloadPlan, selection: Selection) -> None:
    """Refuse what would download and then be no model.

    Raises:
        UsageError: no file is left.
        ModelError: the repository has no safetensors weights.
    """
    if selection.include or selection.exclude:
        if not plan.files:
            message = f"--include and --exclude leave none of the {len(plan.left_out)} files of {plan.repo_id}"
            raise UsageError(message, hint="--dry-run with other patterns lists all files")
        return
    if any(file.path.endswith(".safetensors") for file in plan.files):
        return
    left = [item.file.path for item in plan.left_out]
    inside = sorted({path.rpartition("/")[0] for path in left if path.endswith(".safetensors")})
    if inside:
        hint = f"the weights are in {shown_names(inside)}: fetch it with --include {shown(inside[0])}/"
    elif any(path.endswith(".gguf") for path in left):
        hint = "GGUF files cannot be trained: take the original model, usually the same name without GGUF"
    elif any(path.endswith(_PICKLES) for path in left):
        hint = "try --revision refs/pr/1 (the Hub's bot offers safetensors that way), or another copy of the model"
    else:
        hint = "take a repository of a model; --include fetches files of any kind"
    raise ModelError(f"{plan.repo_id} has no safetensors weights, so it cannot be trained", hint=hint)

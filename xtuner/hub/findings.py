"""What a look at a model directory can find, and the words for it."""

import re
from dataclasses import dataclass
from enum import Enum

from xtuner.errors import ModelError


class Severity(Enum):
    """FAIL: cannot be trained. WARN: can be, look at it. INFO: for the record."""

    FAIL = "FAIL"
    WARN = "WARN"
    INFO = "INFO"


REASON_CODES: dict[str, str] = {
    # the path
    "PATH_MISSING": "There is nothing at the path.",
    "HUB_ID": "The path is the name or the address of a model on the Hub, not a directory.",
    "NOT_A_DIRECTORY": "The path is a file.",
    "UNREADABLE": "A file or directory cannot be read.",
    "HUB_CACHE_ROOT": "The directory is the root of a Hub cache; the models are in snapshots below it.",
    "HUB_CACHE_REPO": "The directory is a model's folder in a Hub cache; the model is in a snapshot of it.",
    "HUB_CACHE_SNAPSHOTS": "The directory is the `snapshots` folder of a Hub cache; the model is a folder in it.",
    "PARENT_OF_MODELS": "The directory is no model, but folders in it are.",
    # any file
    "NOT_A_FILE": "A needed file is a directory, a pipe or a device; it is not opened.",
    "DANGLING_LINK": "A symbolic link leads nowhere, as after a cache was pruned.",
    "LFS_POINTER": "A file is a Git LFS pointer; its content was not fetched.",
    "ERROR_PAGE": "A file is a web page or an error message that was saved under its name.",
    "NOT_JSON": "A JSON file is not a JSON object.",
    "DUPLICATE_KEY": "A JSON file has the same key twice.",
    "JSON_TOO_LARGE": "A JSON file is far larger than such a file can be.",
    "DOWNLOAD_UNFINISHED": "There are files of a download that did not end (`*.incomplete`).",
    # config.json
    "NO_CONFIG": "There is no config.json.",
    "NO_MODEL_TYPE": "config.json names no model type.",
    "REMOTE_CODE": "The model asks for code of its own (`auto_map`, Hub kernels), which is never run.",
    "UNUSED_CODE": "The tokenizer or a processor asks for code of its own, which training does not need.",
    "QUANTIZED": "The weights are quantised and cannot be fully fine-tuned.",
    "NOT_A_DECODER": "The architecture is not a decoder-only language model.",
    "SPECIAL_ID_OUT_OF_RANGE": "A special token's id has no row in the embedding.",
    "NO_END_TOKEN": "No end token is named, so nothing would stop the trained model.",
    "END_TOKEN_NOT_IN_TEMPLATE": "The chat template never writes an end token of the model.",
    "VOCAB_MISMATCH": "The embedding has another number of rows than config.json says.",
    # weights
    "ADAPTER_ONLY": "The directory holds an adapter (LoRA), not a model.",
    "GGUF_ONLY": "The weights are GGUF files.",
    "PICKLE_ONLY": "The weights are pickle files, which can run code when loaded.",
    "NO_WEIGHTS": "There are no weight files.",
    "INDEX_BROKEN": "model.safetensors.index.json has no usable `weight_map`.",
    "INDEX_UNSAFE_NAME": "model.safetensors.index.json names a file outside the directory.",
    "SHARD_MISSING": "Weight files are not there.",
    "SHARD_TRUNCATED": "A weight file is shorter than its header says.",
    "SHARD_TOO_LONG": "A weight file is longer than its header says.",
    "BAD_HEADER": "A weight file's header is not one of safetensors.",
    "TENSOR_MISSING": "The index places a tensor in a file that does not hold it.",
    "TENSOR_TWICE": "Without an index, a tensor is in more than one weight file.",
    "NOT_IN_INDEX": "Weights that no index names; they are not read.",
    "MIXED_DTYPES": "The matrices have several dtypes.",
    "ZERO_FILLED": "A part of a weight file reads as zeros, as if it was never written.",
    "LAYER_MISSING": "A layer that config.json counts has no tensor.",
    "LAYER_UNEXPECTED": "There are more layers than config.json counts.",
    "TENSORS_LACKING": "Tensors that the architecture needs are missing.",
    # the bytes of the weights: --deep
    "NOT_FINITE": "Weights are NaN or infinite.",
    "ZERO_MATRIX": "A matrix is nothing but zeros.",
    "CHECKSUM_MISMATCH": "A weight file has not the checksum of its download.",
    "CHANGED_FILE": "A file was changed since it was downloaded.",
    "CHECKSUMS": "How many weight files have the checksum of their download.",
    # tokenizer
    "NO_TOKENIZER": "There is no tokenizer.",
    "TOKENIZER_NOT_FAST": "There is no tokenizer.json, only an older kind of tokenizer file.",
    "TOKENIZER_BROKEN": "tokenizer.json is not a tokenizer.",
    "TOKENIZER_TOO_LARGE": "The tokenizer gives ids that have no row in the embedding.",
    "SPARE_TOKENS": "Special tokens that no template uses have no row in the embedding.",
    "NO_CHAT_TEMPLATE": "There is no chat template.",
}


@dataclass(frozen=True)
class Finding:
    """One thing found: `code` is one of `REASON_CODES`, `hint` is what fixes it."""

    severity: Severity
    code: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        assert self.code in REASON_CODES, self.code


class HubError(ModelError):
    """A `ModelError` that knows its reason code."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    def finding(self, severity: Severity = Severity.FAIL) -> Finding:
        """The same as a line of a report."""
        return Finding(severity, self.code, self.message, self.hint)


def fail(code: str, message: str, hint: str) -> Finding:
    """A finding that stands in the way of training."""
    return Finding(Severity.FAIL, code, message, hint)


def warn(code: str, message: str, hint: str) -> Finding:
    """A finding to look at."""
    return Finding(Severity.WARN, code, message, hint)


def info(code: str, message: str) -> Finding:
    """A finding for the record."""
    return Finding(Severity.INFO, code, message)


_LINE_BREAKS = re.compile("[\t-\r\x1c-\x1e\x85\u2028\u2029]")
MAX_SHOWN_CHARS = 80
_MAX_SHOWN_NAMES = 10


def shown(text: object, limit: int = MAX_SHOWN_CHARS) -> str:
    """`text` on one line of at most `limit` characters.

    A name with a line break in it must not be able to write a line of its own into a report. Other control
    characters are escaped where text is printed.
    """
    line = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    line = _LINE_BREAKS.sub(lambda match: match.group().encode("unicode_escape").decode(), line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown_path(path: object) -> str:
    """A path on one line; long enough for any real one (PATH_MAX)."""
    return shown(path, 4096)


def shown_names(names: list[str]) -> str:
    """Up to ten names, and how many more there are."""
    more = f" and {len(names) - _MAX_SHOWN_NAMES} more" if len(names) > _MAX_SHOWN_NAMES else ""
    return ", ".join(shown(name) for name in names[:_MAX_SHOWN_NAMES]) + more

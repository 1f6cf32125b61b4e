"""What a look at a model directory can find."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """FAIL: cannot be trained. WARN: can be, look at it. INFO: for the record."""

    FAIL = "FAIL"
    WARN = "WARN"
    INFO = "INFO"


@dataclass(frozen=True)
class Finding:
    """One thing found: `code` is one of `REASON_CODES`, `hint` is what fixes it."""

    severity: Severity
    code: str
    message: str
    hint: str = ""


REASON_CODES = {
    "PATH_MISSING": "There is nothing at the path.",
    "NOT_A_DIRECTORY": "The path is a file.",
    "UNREADABLE": "A file or directory cannot be read.",
    "HUB_CACHE": "The directory is part of a Hub cache (`blobs/ refs/ snapshots/`), the model is in a snapshot of it.",
    "NO_CONFIG": "There is no config.json.",
    "BAD_CONFIG": "config.json is not a JSON object that names a model type.",
    "REMOTE_CODE": "The model needs Python code of its own (`auto_map`).",
    "QUANTIZED": "The weights are quantised and cannot be fully fine-tuned.",
    "NOT_A_DECODER": "The architecture is not a decoder-only language model.",
    "ADAPTER_ONLY": "The directory holds an adapter (LoRA), not a model.",
    "GGUF_ONLY": "The weights are GGUF files.",
    "PICKLE_ONLY": "The weights are pickle files, which can run code when loaded.",
    "NO_WEIGHTS": "There are no weight files.",
    "BAD_INDEX": "model.safetensors.index.json is broken, or names files outside the directory.",
    "SHARD_MISSING": "The index names weight files that are not there.",
    "TENSOR_MISSING": "The index places a tensor in a file that does not hold it.",
    "BAD_SHARD": "A weight file is truncated, grown, or not safetensors at all.",
    "NOT_IN_INDEX": "A weight file is not named by the index and will not be read.",
    "DOWNLOAD_UNFINISHED": "There are `*.incomplete` files of a download.",
    "NO_TOKENIZER": "There is no tokenizer.json.",
    "NO_CHAT_TEMPLATE": "There is no chat template.",
}

"""Code that a model asks for: it is named with its checksums, and never run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, Severity, info, shown, shown_names
from xtuner.hub.judge_config import Config
from xtuner.hub.regular_file import open_regular, read_json_object

_MAX_LISTED = 20
_MAX_HASHED_BYTES = 10 * 2**20  # source files are far smaller
_OTHER_CONFIGS = (
    "generation_config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def judge_code(directory: Path, names: list[str], config: Config, *, trust_remote_code: bool) -> Iterator[Finding]:
    """What asks for code, in nested configs too (CVE-2026-22807); a warning where `trust_remote_code` says so."""
    severity = Severity.WARN if trust_remote_code else Severity.FAIL
    entries = list(_walk(config))
    if _has_auto_map(entries):
        files = [name for name in names if name.endswith(".py")]
        listed = f" ({shown_names(files)})" if files else ""
        message = f"config.json asks for Python code of the model's own{listed}: auto_map; it is never run"
        yield Finding(severity, "REMOTE_CODE", message, _hint(config, directory, files))
    else:
        yield from _judge_other_configs(directory, names)
    # Private code of an attention function was run by transformers 4.56 to 5.2 without asking (CVE-2026-4372).
    kernels = [
        value for key, value in entries if "attn_implementation" in key and isinstance(value, str) and "/" in value
    ]
    if kernels:
        message = f"config.json asks for attention code from the Hub: {shown_names(kernels)}; it is never fetched"
        yield Finding(severity, "REMOTE_CODE", message, "remove the _attn_implementation entries from config.json")


def _hint(config: Config, directory: Path, files: list[str]) -> str:
    hint = (
        "training does not run such code; use a revision of the model that transformers supports by itself. "
        f"If transformers knows the model type {shown(config['model_type'], 40)}, "
        "removing auto_map from config.json is enough"
    )
    if not files:
        return hint
    more = f"\n… {len(files) - _MAX_LISTED} more" if len(files) > _MAX_LISTED else ""
    lines = (f"\n{_sha256(directory / name)}  {shown(name)}" for name in files[:_MAX_LISTED])
    return f"{hint}. The code, by SHA-256:{''.join(lines)}{more}"


def _judge_other_configs(directory: Path, names: list[str]) -> Iterator[Finding]:
    """Code for tokenizers and processors is for the record: training reads tokenizer.json instead."""
    asking = []
    for name in _OTHER_CONFIGS:
        if name in names:
            try:
                values = read_json_object(directory / name, unique_keys=False)
            except HubError:
                continue  # whoever needs the file says so
            if _has_auto_map(_walk(values)):
                asking.append(name)
    if asking:
        message = f"{shown_names(asking)} asks for Python code of its own (auto_map), which training does not need"
        yield info("UNUSED_CODE", message)


def _has_auto_map(entries: Any) -> bool:
    return any(key == "auto_map" and value for key, value in entries)


def _sha256(path: Path) -> str:
    import hashlib  # loads OpenSSL, which most models need not wait for

    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MAX_HASHED_BYTES:
                return "(too large)".ljust(64)
            return hashlib.sha256(file.read(_MAX_HASHED_BYTES)).hexdigest()
    except (HubError, OSError):
        return "(cannot be read)".ljust(64)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth; without recursion, as the depth is the file's choice."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from part.items()
            pending += part.values()
        elif isinstance(part, list):
            pending += part

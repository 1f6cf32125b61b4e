"""`run.json`: what was run, where, and with which versions."""

import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

SCHEMA = 1
MASK = "***"
_PACKAGES = ("xtuner", "torch", "transformers", "safetensors", "tokenizers")
_GIT_TIMEOUT_S = 5.0

_SECRET_WORDS = {"token", "key", "secret", "password", "passwd", "apikey"}
# `eos_token` and its like are words of a vocabulary.
_SPECIAL_TOKENS = {"bos", "eos", "pad", "unk", "sep", "cls", "mask"}
_USER_OF_URL = re.compile(r"://[^/@\s]{1,256}@")


def describe_run(command: list[str], config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The record of a run that starts now; `config` are its resolved options, `more` is added as it is.

    Secrets in the command and in what is copied from `config` are masked. No environment variables: they hold
    tokens.
    """
    return {
        "schema": SCHEMA,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": mask_command(command),
        "cwd": _current_directory(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "git": _git_state(),
        "model": mask_secrets(config.get("load_from") or config.get("model_cfg")),
        "dataset": mask_secrets(config.get("dataset")),
        **more,
    }


def mask_secrets(value: Any) -> Any:
    """A copy of `value` with the strings under keys such as `hf_token`, and the users of URLs, masked."""
    if isinstance(value, str):
        return _USER_OF_URL.sub(f"://{MASK}@", value)
    if isinstance(value, Mapping):
        return {key: MASK if _hides(key, inner) else mask_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_secrets(inner) for inner in value]
    return value


def mask_command(command: list[str]) -> list[str]:
    """`command` with the values of flags such as `--hf-token`, and the users of URLs, masked."""
    masked: list[str] = []
    for index, argument in enumerate(command):
        name, equals, value = argument.partition("=")
        before = command[index - 1] if index else ""
        if equals and _hides(name, value):
            masked.append(f"{name}={MASK}")
        elif before.startswith("-") and not argument.startswith("-") and _hides(before, argument):
            masked.append(MASK)
        else:
            masked.append(mask_secrets(argument))
    return masked


def _hides(key: object, value: object) -> bool:
    words = re.split(r"[-_.]", str(key).lower())
    is_special_token = len(words) > 1 and words[-2] in _SPECIAL_TOKENS
    return isinstance(value, str) and bool(value) and words[-1] in _SECRET_WORDS and not is_special_token


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit of the current directory and whether tracked files were changed; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    # Untracked files are left out: work dirs often lie in a repository, and looking for them takes time.
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    # No file system monitor (a program that the repository names) and no write to its index.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "backslashreplace").strip() if done.returncode == 0 else None

"""`run.json`: what was run, where, and with which versions."""

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
_PACKAGES = ("xtuner", "torch", "transformers", "safetensors", "tokenizers")


def describe_run(command: list[str], config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The record of a run that starts now; `config` are its resolved options, `more` is added as it is.

    No environment variables: they hold tokens.
    """
    return {
        "schema": SCHEMA,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "cwd": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "git": _git_state(),
        "model": config.get("load_from") or config.get("model_cfg"),
        "dataset": config.get("dataset"),
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit of the current directory and whether it has uncommitted changes; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))} if commit else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

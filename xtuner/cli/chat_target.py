"""What `xtuner chat DIR` means: a model, an adapter and its base, or the newest export of a run."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import ModelError, UsageError
from xtuner.hub.model_dir import require_model
from xtuner.preflight import require_package
from xtuner.run.checkpoints import list_checkpoints
from xtuner.run.layout import RunDir, find_runs, is_run_dir

_ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class ChatTarget:
    """Whom to talk with.

    Attributes:
        path: the directory that was meant.
        model_dir: a model directory that `xtuner.hub` has judged.
        adapter_dir: the adapter to put on it.
        tokenizer_dir: where tokenizer and chat template are.
        is_export: `path` was found in a run and not named by the user.
    """

    path: Path
    model_dir: Path
    adapter_dir: Path | None
    tokenizer_dir: Path
    is_export: bool


def find_target(path: Path) -> ChatTarget:
    """Find and judge whom `path` means.

    Raises:
        UsageError: a work dir or a run without an export, or an adapter without peft to load it.
        ModelError: not a model that can be used.
    """
    export = _newest_export(path)
    directory = export or path
    if (directory / _ADAPTER_CONFIG).is_file() and not (directory / "config.json").is_file():
        return _adapter_target(directory, is_export=export is not None)
    require_model(directory)
    return ChatTarget(directory, directory, None, directory, is_export=export is not None)


def _newest_export(path: Path) -> Path | None:
    """The newest model of the runs behind `path`; None when there are no runs, and `path` is meant itself."""
    if (path / "config.json").is_file() and not is_run_dir(path):  # a run has such a file, too
        return None
    runs = find_runs(path)
    if not runs:
        return None
    for run in reversed(runs):
        for link, config in ((run.latest_export, "config.json"), (run.latest_adapter, _ADAPTER_CONFIG)):
            if (link / config).is_file():
                return run.path / os.path.basename(os.path.realpath(link))
    raise _nothing_exported(path, runs)


def _nothing_exported(path: Path, runs: list[RunDir]) -> UsageError:
    message = f"no run in {path} has exported a model yet"
    if runs[0].path == path:
        message = f"the run {path} has exported no model yet"
    newest = next((saved[-1] for run in reversed(runs) if (saved := list_checkpoints(run))), None)
    if newest is None:
        return UsageError(message, hint=f"see how far it is: xtuner monitor --once {shlex.quote(str(path))}")
    export = f"xtuner export {shlex.quote(str(newest.path))} --to MODEL_DIR"
    return UsageError(message, hint=f"make one of the checkpoint after step {newest.step:,}: {export}")


def _adapter_target(directory: Path, *, is_export: bool) -> ChatTarget:
    require_package("peft", f"{directory} is a LoRA adapter, and needs", extra="lora")
    base = _base_of(directory)
    # Some trainers put tokenizer and template beside the adapter.
    has_own = (directory / "tokenizer.json").is_file() and (directory / "chat_template.jinja").is_file()
    try:
        require_model(base, needs_tokenizer=not has_own, needs_chat_template=not has_own)
    except ModelError as error:
        raise ModelError(f"{directory} is an adapter, and its base model: {error.message}", hint=error.hint) from None
    return ChatTarget(directory, base, directory, directory if has_own else base, is_export)


def _base_of(directory: Path) -> Path:
    """The base model by adapter_config.json; a relative path is one from here, as peft takes it."""
    path = directory / _ADAPTER_CONFIG
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="write the adapter again") from None
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path} names no base model", hint="put the base model's path into base_model_name_or_path")
    return Path(base)

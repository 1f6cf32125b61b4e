"""A wrong model path gets the same words and the same exit code from every command that takes one."""

import os
import re

import pytest
from hub_dirs import edit_json, make_cached, make_model


def _truncated(directory):
    path = make_model(directory / "m") / "model.safetensors"
    os.truncate(path, path.stat().st_size - 7)
    return directory / "m"


def _adapter(directory):
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    return directory


def _pickle(directory):
    (make_model(directory / "m") / "model.safetensors").rename(directory / "m" / "pytorch_model.bin")
    return directory / "m"


def _code(directory):
    edit_json(make_model(directory / "m") / "config.json", auto_map={"AutoModel": "x.Y"})
    (directory / "m" / "x.py").touch()
    return directory / "m"


WRONG_PATHS = {
    "nothing": lambda d: d / "none",
    "a file": lambda d: make_model(d / "m") / "config.json",
    "a Hub id": lambda d: "Qwen/Qwen3-8B",
    "an address": lambda d: "https://huggingface.co/Qwen/Qwen3-8B",
    "a trailing space": lambda d: f"{make_model(d / 'm')} ",
    "a Windows path": lambda d: "C:\\models\\m",
    "a cache root": lambda d: make_cached(d).parent,
    "a cached model": make_cached,
    "two snapshots": lambda d: make_cached(d, revisions=("a" * 40, "b" * 40), main=None),
    "snapshots/": lambda d: make_cached(d) / "snapshots",
    "a parent of one": lambda d: make_model(d / "m").parent,
    "a parent of two": lambda d: make_model(make_model(d / "m").parent / "n").parent,
    "an empty directory": lambda d: d,
    "cut weights": _truncated,
    "an adapter": _adapter,
    "pickles": _pickle,
    "remote code": _code,
}


@pytest.mark.parametrize("name", WRONG_PATHS)
def test_same_words_and_exit_code(xtuner, tmp_path, name):
    (tmp_path / "d").mkdir()
    (tmp_path / "chats.jsonl").write_text('{"text": "x"}\n')
    path = WRONG_PATHS[name](tmp_path / "d")
    checked = xtuner("check-model", path)
    message, hint = _of_check_model(checked.stdout)
    flags = ["--dataset", tmp_path / "chats.jsonl", "--work-dir", tmp_path / "work"]
    trained = xtuner("sft", "--load-from", path, *flags)
    assert trained.exit_code == checked.exit_code == 3
    assert trained.stderr == f"error: {message}\n\nhint: {hint}\n"
    assert not (tmp_path / "work").exists()


def _of_check_model(out):
    """Message and hint of the one finding; before it there may be a summary."""
    [part] = [part for part in out.split("\n\n") if re.match("FAIL [A-Z]", part)]
    first, second, *rest = part.splitlines()
    hint = [second.removeprefix("  hint: "), *(line.removeprefix("    ") for line in rest)]
    return first.partition(": ")[2], "\n".join(hint)

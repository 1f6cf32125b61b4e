"""Every mistake a user can make before the first step: the same words and exit code from `xtuner sft` and from the
entry script, a hint, and never a traceback."""

import json
import shutil
import socket

import pytest
from commands import ENTRY, run

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]


def _dataset(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def _hub_cache(path, model_dir):
    snapshot = path / "models--org--tiny" / "snapshots" / "abc123"
    shutil.copytree(model_dir, snapshot)
    (path / "models--org--tiny" / "blobs").mkdir()
    (path / "models--org--tiny" / "refs").mkdir()
    (path / "models--org--tiny" / "refs" / "main").write_text("abc123")
    return path / "models--org--tiny"


def _without(model_dir, path, name):
    shutil.copytree(model_dir, path)
    (path / name).unlink()
    return path


def _truncated(model_dir, path):
    shutil.copytree(model_dir, path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return path


# name -> (exit code, words of the message or hint, flags made from (model, chats, tmp_path))
CASES = {
    "no model": (2, "no model is given", lambda m, c, t: ["--dataset", c]),
    "no data": (2, "no data is given", lambda m, c, t: ["--load-from", m]),
    "mistyped flag": (2, "--total-step", lambda m, c, t: ["--load-from", m, "--dataset", c, "--totl-step", 3]),
    "value out of range": (2, "greater than 0", lambda m, c, t: ["--load-from", m, "--dataset", c, "--lr", -1]),
    "both lengths": (2, "both given", lambda m, c, t: [*_ok(m, c), "--total-step", 3, "--epoch-num", 1]),
    "batch not divisible": (2, "not a multiple", lambda m, c, t: [*_ok(m, c), "--global-batch-size", 3]),
    "unknown config key": (2, "warmup_ratio", lambda m, c, t: ["--config", _dataset(t / "c.yaml", "warmup: 1")]),
    "missing config": (2, "no config file", lambda m, c, t: [*_ok(m, c), "--config", t / "none.yaml"]),
    "missing model": (3, "no model directory", lambda m, c, t: _ok(t / "none", c)),
    "file as model": (3, "is a file", lambda m, c, t: _ok(c, c)),
    "empty directory": (3, "no config.json", lambda m, c, t: _ok(t, c)),
    "hub cache": (3, "snapshots/abc123", lambda m, c, t: _ok(_hub_cache(t, m), c)),
    "no weights": (3, "has no weights", lambda m, c, t: _ok(_without(m, t / "m", "model.safetensors"), c)),
    "cut weights": (3, "short by 100 bytes", lambda m, c, t: _ok(_truncated(m, t / "m"), c)),
    "no tokenizer": (3, "no tokenizer.json", lambda m, c, t: _ok(_without(m, t / "m", "tokenizer.json"), c)),
    "no template": (3, "no chat template", lambda m, c, t: _ok(_without(m, t / "m", "chat_template.jinja"), c)),
    "missing data": (4, "no data file", lambda m, c, t: _ok(m, t / "none.jsonl")),
    "directory without data": (4, "without data files", lambda m, c, t: _ok(m, t)),
    "glob without files": (4, "no file matches", lambda m, c, t: _ok(m, t / "*.jsonl")),
    "empty data": (4, "is empty", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl"))),
    "invalid json": (4, "d.jsonl:2:", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl", CHAT, "{oops", CHAT))),
    "no known shape": (4, "d.jsonl:1: the row has no", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl", {"chat": "x"}))),
    "two formats": (4, "d.jsonl:2: this is no row", lambda m, c, t: _ok(m, _text_behind_chat(t))),
    "an image": (4, "is of the type 'image'", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl", _image()))),
    "over-long refused": (4, "the limit is 8", lambda m, c, t: [*_ok(m, c), "--max-length", 8, "--overlong", "error"]),
    "missing template": (2, "cannot be read", lambda m, c, t: [*_ok(m, c), "--chat-template", t / "none.jinja"]),
    "unwritable cache": (5, "cache directory", lambda m, c, t: [*_ok(m, c), "--cache-dir", "/proc/xtuner"]),
    "unknown role": (4, "did you mean assistant", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl", _role("asistant")))),
    "nothing trainable": (4, "none of the 2 rows", lambda m, c, t: _ok(m, _dataset(t / "d.jsonl", CHAT[:1], CHAT[:1]))),
    "only over-long": (4, "no reply within 4", lambda m, c, t: [*_ok(m, c), "--max-length", 4]),
    "unwritable work dir": (5, "cannot be written", lambda m, c, t: [*_ok(m, c), "--work-dir", "/proc/xtuner"]),
    "work dir is a file": (5, "cannot be written", lambda m, c, t: [*_ok(m, c), "--work-dir", c]),
}  # fmt: skip


def _ok(model, data):
    return ["--load-from", model, "--dataset", data]


def _image():
    return [{"role": "user", "content": [{"type": "image"}]}, CHAT[1]]


def _text_behind_chat(directory):
    return _dataset(directory / "d.jsonl", CHAT, {"text": "x"})


def _role(role):
    return [CHAT[0], {"role": role, "content": "x"}]


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, tiny_model, chats, tmp_path):
    exit_code, words, make_flags = CASES[case]
    scratch = tmp_path / "in put"
    scratch.mkdir()
    flags = make_flags(tiny_model("qwen3"), chats, scratch)
    if "--work-dir" not in flags:
        flags += ["--work-dir", tmp_path / "work"]
    launched = run("xtuner", "sft", *flags, "--nproc-per-node", 2)
    # Two ranks' worth of checks in one process; rank 0 of 2 finds the mistake before it would meet rank 1.
    entered = run("python", ENTRY, *flags, env={"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"})
    for done in (launched, entered):
        assert done.returncode == exit_code, done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr
    if exit_code != 2:
        assert "hint:" in launched.stderr
        assert _error(launched.stderr) == _error(entered.stderr)
    assert not (tmp_path / "work").exists()


def _error(stderr):
    return stderr[stderr.index("error:") :]


def test_a_port_in_use(tiny_model, chats, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = [*_ok(tiny_model("qwen3"), chats), "--work-dir", tmp_path, "--nnodes", 2, "--nproc-per-node", 1]
        done = run("xtuner", "sft", *flags, "--rdzv-endpoint", f"127.0.0.1:{port}")
    assert done.returncode == 5 and f"port {port}" in done.stderr and "hint:" in done.stderr


def test_torchrun_says_a_mistake_once(tiny_model, chats, tmp_path):
    done = run("torchrun", "--nproc-per-node", 2, ENTRY, *_ok(tmp_path / "none", chats), "--work-dir", tmp_path / "w")
    assert done.returncode != 0 and done.stderr.count("error: there is no model directory") == 1


def test_less_data_than_ranks_is_repeated_and_said(tiny_model, tmp_path):
    """D16: one row, four ranks."""
    flags = [*_ok(tiny_model("qwen3"), _dataset(tmp_path / "d.jsonl", CHAT)), "--total-step", 2]
    done = run("xtuner", "sft", *flags, "--nproc-per-node", 4, "--work-dir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert "one step takes 4: the data is repeated within a step" in done.stderr


def test_cut_rows_are_counted_not_silent(tiny_model, chats, tmp_path):
    flags = [*_ok(tiny_model("qwen3"), chats), "--max-length", 100, "--total-step", 1, "--work-dir", tmp_path]
    done = run("xtuner", "sft", *flags)
    assert done.returncode == 0 and "cut at 100 tokens" in done.stderr

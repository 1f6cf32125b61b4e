"""`xtuner preview`: what it prints of rows, what it reports, and when it fails."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]
REPORT_KEYS = {
    "files", "rows", "rows_examined", "rows_in_error", "turns", "roles", "scripts", "rows_with_tools",
    "rows_with_reasoning", "rows_with_empty_reply", "duplicate_rows", "tokens_per_row", "tokens", "trained_tokens",
    "overlong", "tokens_cut", "sequences", "replies", "replies_ended", "packing", "problems", "vocab_size",
    "template_changes",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A directory with tokenizer, template and a config that says the size of the vocabulary."""
    directory = tmp_path_factory.mktemp("model")
    tiny_models.write_tokenizer(directory)
    (directory / "config.json").write_text('{"vocab_size": 512}')
    return directory


def _data(directory: Path, *rows: object) -> Path:
    path = directory / "chats.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    )
    return path


def test_trained_text_is_marked_without_colour(xtuner, model, tmp_path):
    done = xtuner("preview", _data(tmp_path, CHAT), "--model", model)
    assert done.exit_code == 0
    assert "<|im_start|>assistant\n⟪Hello there.<|im_end|>⟫" in done.stdout and "\x1b" not in done.stdout
    assert "chats.jsonl:1 (" in done.stdout and '"content": "Hi"' in done.stdout


def test_tokens_end_where_they_are_marked(xtuner, model, tmp_path):
    done = xtuner("preview", _data(tmp_path, CHAT), "--model", model, "--tokens", "--row", 1)
    assert "⟪H¦" in done.stdout and "<|im_end|>¦⟫" in done.stdout
    shown = json.loads(
        xtuner("preview", _data(tmp_path, CHAT), "--model", model, "--tokens", "--row", 1, "--json").stdout
    )
    [sequence] = shown["samples"][0]["sequences"]
    assert sum(piece["tokens"] for piece in sequence["pieces"]) == sequence["tokens"]
    assert "".join(piece["text"] for piece in sequence["pieces"] if piece["trained"]) == "Hello there.<|im_end|>"


def test_without_a_model_chats_are_shown_as_they_are_written(xtuner, tmp_path):
    done = xtuner("preview", _data(tmp_path, CHAT))
    assert "user: Hi\nassistant: Hello there." in done.stdout and "trained" not in done.stdout


def test_the_report_counts_what_is_there(xtuner, model, tmp_path):
    tool_row = {
        "messages": [
            CHAT[0],
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "x"},
            {"role": "assistant", "content": "done", "reasoning_content": "hm"},
        ]
    }
    rows = [CHAT, CHAT, tool_row, [CHAT[0], {"role": "assistant", "content": "你好，很高兴见到你"}], CHAT[:1]]
    done = xtuner("preview", _data(tmp_path, *rows), "--model", model, "--json", "-n", 0)
    answer = json.loads(done.stdout)
    report = answer["report"]
    assert set(report) == REPORT_KEYS and answer["samples"] == []
    assert (report["rows"], report["rows_in_error"], report["duplicate_rows"]) == (5, 0, 1)
    assert report["roles"] == {"user": 5, "assistant": 5, "tool": 1} and report["turns"] == {"0": 1, "1": 3, "2": 1}
    assert (report["rows_with_tools"], report["rows_with_reasoning"]) == (1, 1)
    assert report["scripts"] == {"Latin": 4, "Chinese": 1} and report["vocab_size"] == 512
    assert report["problems"]["NO_REPLY"]["count"] == 1 and report["problems"]["NOT_SHOWN"]["count"] == 2
    assert report["replies"] == report["replies_ended"] == 5
    assert report["packing"]["packs"] == 1 and 0 < report["trained_tokens"] < report["tokens"]


def test_the_truth_about_the_loss_and_the_end_of_turn(xtuner, model, tmp_path):
    done = xtuner("preview", _data(tmp_path, CHAT), "--model", model)
    assert "a random model starts at ln(vocab) = 6.24" in done.stdout
    assert "end-of-turn token trained: yes (<|im_end|>, all 1 replies)" in done.stdout

    never_ends = tmp_path / "never_ends.jinja"
    never_ends.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    done = xtuner("preview", _data(tmp_path, CHAT), "--model", model, "--chat-template", never_ends)
    assert "end-of-turn token trained: NO" in done.stdout and "differs from the model's own" in done.stdout


def test_errors_fail_and_warnings_fail_when_strict(xtuner, model, tmp_path):
    good, odd, bad = (_data_in(tmp_path, name, *rows) for name, rows in CASES.items())
    assert xtuner("preview", good, "--model", model, "--strict").exit_code == 0
    assert xtuner("preview", odd, "--model", model).exit_code == 0
    assert xtuner("preview", odd, "--model", model, "--strict").exit_code == 4
    done = xtuner("preview", bad, "--model", model)
    assert done.exit_code == 4 and "FAIL: 2 of 3 rows are in error" in done.stdout
    assert "error INVALID_JSON: 1 row" in done.stdout and "bad.jsonl:2:2" in done.stdout
    assert "error UNKNOWN_ROLE: 1 row" in done.stdout and "did you mean assistant" in done.stdout
    assert xtuner("preview", bad).exit_code == 4


CASES = {
    "good": [CHAT],
    "odd": [CHAT, [{"role": "user", "content": "a <|im_end|> b"}, CHAT[1]]],
    "bad": [CHAT, "{oops", [CHAT[0], {"role": "asistant", "content": "x"}]],
}


def _data_in(directory: Path, name: str, *rows: object) -> Path:
    return _data(directory, *rows).rename(directory / f"{name}.jsonl")


def test_a_row_is_found_by_line_and_by_text(xtuner, tmp_path):
    path = _data(tmp_path, CHAT, "", [CHAT[0], {"role": "assistant", "content": "Été, Straße"}])
    assert "Été" in xtuner("preview", path, "--row", 3).stdout
    assert "Été" in xtuner("preview", path, "--search", "éTÉ").stdout
    blank = xtuner("preview", path, "--row", 2)
    assert blank.exit_code == 4 and "no row on line 2" in blank.stderr
    assert "no row holds 'zebra'" in xtuner("preview", path, "--search", "zebra").stderr
    escaped = tmp_path / "escaped.jsonl"
    escaped.write_text(json.dumps([CHAT[0], {"role": "assistant", "content": "你好\n世界"}]) + "\n")
    assert "escaped.jsonl:1" in xtuner("preview", escaped, "--search", "你好").stdout


def test_hostile_text_cannot_reach_the_terminal(xtuner, model, tmp_path):
    path = _data(tmp_path, [CHAT[0], {"role": "assistant", "content": "\x1b]0;title\x07 \u202e \x9b31m"}])
    for flags in ([], ["--model", model], ["--model", model, "--tokens"], ["--json"]):
        done = xtuner("preview", path, *flags)
        assert not set("\x1b\x07\x9b\u202e") & set(done.stdout + done.stderr), flags


def test_over_long_rows_show_where_they_are_cut(xtuner, model, tmp_path):
    path = _data(tmp_path, [CHAT[0], {"role": "assistant", "content": "word " * 50}])
    done = xtuner("preview", path, "--model", model, "--max-length", 32)
    assert "── cut here, at 32 tokens ──" in done.stdout and "1 cut at 32 tokens" in done.stdout


def test_only_a_terminal_can_be_browsed(xtuner, tmp_path):
    done = xtuner("preview", _data(tmp_path, CHAT), "-i")
    assert done.exit_code == 2 and "needs a terminal" in done.stderr


def test_a_wrong_model_path_speaks_as_check_model_does(xtuner, tmp_path):
    cache = tmp_path / "models--org--tiny"
    for name in ("blobs", "refs", "snapshots/abc"):
        (cache / name).mkdir(parents=True)
    done = xtuner("preview", _data(tmp_path, CHAT), "--model", cache)
    assert done.exit_code == 3 and "snapshots" in done.stderr


def test_large_data_is_sampled_and_the_report_says_so(xtuner, tmp_path, monkeypatch):
    from xtuner.data import health

    monkeypatch.setattr(health, "SAMPLE_BYTES", 20_000)
    path = tmp_path / "many.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for number in range(3_000):
            file.write(json.dumps([CHAT[0], {"role": "assistant", "content": f"Answer {number * 7919}"}]) + "\n")
    done = xtuner("preview", path, "-n", 0)
    assert "of 3,000 rows, every" in done.stdout
    assert "OK: 3,000 rows" in xtuner("preview", path, "-n", 0, "--all").stdout


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_cut_last_row_is_an_error_with_its_line(xtuner, tmp_path, cut):
    path = _data(tmp_path, CHAT, CHAT)
    path.write_bytes(path.read_bytes()[: -cut - 1])
    done = xtuner("preview", path)
    assert done.exit_code == 4 and "CUT_LINE" in done.stdout and "chats.jsonl:2" in done.stdout


def test_colour_on_a_terminal_marks_trained_text(model, tmp_path):
    """In a real pseudo-terminal, and not when NO_COLOR is set."""
    import pty

    def shown(**environment: str) -> str:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "xtuner", "preview", str(_data(tmp_path, CHAT)), "--model", str(model)]
        inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        process = subprocess.Popen(
            command, stdout=theirs, stderr=subprocess.DEVNULL, env={**inherited, "TERM": "xterm", **environment}
        )
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            output += part
        os.close(ours)
        assert process.wait() == 0
        return output.decode()

    assert "\x1b[1;4;32mHello there.\x1b[0m" in shown()
    assert "⟪Hello there.<|im_end|>⟫" in shown(NO_COLOR="1")

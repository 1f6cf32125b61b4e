"""When `xtuner sft` asks, when it refuses to, and what it fills in."""

import sys

import pytest

from xtuner.cli.wizard import Asking, wants_questions
from xtuner.errors import UsageError
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.required import missing_flags

COMPLETE = TrainerConfig(load_from="m", dataset="d")


@pytest.fixture
def terminal(monkeypatch):
    """`terminal(stdin, stdout)` says which of them are terminals."""

    def call(stdin, stdout):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: stdin, raising=False)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: stdout, raising=False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: stdout, raising=False)
        monkeypatch.setenv("TERM", "xterm")

    return call


def test_missing_flags_are_all_named():
    assert missing_flags(TrainerConfig()) == ["--load-from", "--dataset"]
    assert missing_flags(TrainerConfig(model_cfg="c")) == ["--tokenizer-path", "--dataset"]
    assert missing_flags(TrainerConfig(load_from="m")) == ["--dataset"]
    assert missing_flags(COMPLETE) == []


@pytest.mark.parametrize(("stdin", "stdout"), [(False, False), (True, False), (False, True)])
def test_without_a_terminal_on_both_ends_nobody_is_asked(xtuner, monkeypatch, stdin, stdout):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: stdin, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: stdout, raising=False)
    for arguments in (["sft"], ["sft", "--wizard"], ["sft", "--plain"], ["sft", "--continue"]):
        done = xtuner(*arguments)
        assert done.exit_code == 2 and done.stdout == ""
        assert "--load-from MODEL_DIR --dataset FILE.jsonl" in done.stderr
    done = xtuner("sft", "--wizard", "--load-from", "m", "--dataset", "d")
    assert done.exit_code == 2 and "need a terminal" in done.stderr


def test_on_a_terminal_it_asks_for_what_is_missing_and_when_it_is_told_to(terminal):
    terminal(True, True)
    assert wants_questions(TrainerConfig(), Asking())
    assert not wants_questions(COMPLETE, Asking())
    assert not wants_questions(COMPLETE, Asking(plain=True)), "it says how to ask, not that"
    for asking in (Asking(wizard=True), Asking(goes_on=True)):
        assert wants_questions(COMPLETE, asking)
    assert not wants_questions(COMPLETE, Asking(wizard=True, never=True))
    with pytest.raises(UsageError, match="no model is given and no data is given"):
        wants_questions(TrainerConfig(), Asking(never=True))


def test_what_is_given_is_filled_in_with_where_it_came_from(xtuner, terminal, monkeypatch, tmp_path):
    """The screen itself is left out: what it is opened with is looked at."""
    opened = []
    monkeypatch.setattr(
        "xtuner.tui.wizard.app.run_wizard", lambda answers, inspector: opened.append((answers, inspector))
    )
    terminal(True, True)
    (tmp_path / "c.yaml").write_text("seed: 7\nlora: {rank: 4}\nlr: 1e-3\n")
    done = xtuner(
        "sft", "--config", tmp_path / "c.yaml", "--lr", "1e-4", "--nproc-per-node", 3, "--dataset", "a b.jsonl"
    )
    assert done.exit_code == 0 and "xtuner sft --continue" in done.stderr
    [(answers, inspector)] = opened
    shown = {key: (answers.text(key), answers.source(key)) for key in ("lr", "seed", "lora.rank", "dataset")}
    assert shown == {
        "lr": ("0.0001", "flag"),
        "seed": ("7", "file"),
        "lora.rank": ("4", "file"),
        "dataset": ("'a b.jsonl'", "flag"),
    }
    assert (answers.text("nproc_per_node"), answers.source("nproc_per_node")) == ("3", "flag")
    assert inspector.template.nproc_per_node >= 1 and answers.source("load_from") == "default"


@pytest.fixture
def launched(monkeypatch):
    """What was launched, and how: the launches themselves are left out."""
    launched = []
    for way in ("launch", "launch_and_watch", "launch_and_leave"):
        monkeypatch.setattr(f"xtuner.cli.sft.{way}", lambda plan, way=way: launched.append((way, plan)))
    return launched


def test_what_was_chosen_is_checked_and_launched_in_front_of_the_dashboard(
    xtuner, terminal, monkeypatch, launched, tiny_model, chats, tmp_path
):

    def choose(answers, inspector):
        answers.set("load_from", str(tiny_model("qwen3")))
        answers.set("dataset", str(chats))
        answers.set("work_dir", str(tmp_path))
        return answers.plan(inspector.template)

    monkeypatch.setattr("xtuner.tui.wizard.app.run_wizard", choose)
    terminal(True, True)
    done = xtuner("sft", "--lr", "1e-4", "--nproc-per-node", 2)
    assert done.exit_code == 0
    [(way, plan)] = launched
    assert (
        way == "launch_and_watch"
        and plan.nproc_per_node == 2
        and plan.config.lr == 1e-4
        and plan.config.load_from == tiny_model("qwen3")
    )


@pytest.mark.parametrize(
    ("is_terminal", "flags", "way"),
    [
        (True, [], "launch_and_watch"),
        (True, ["--plain"], "launch"),
        (True, ["--yes"], "launch"),
        (True, ["--detach"], "launch_and_leave"),
        (True, ["--nnodes", 2, "--node-rank", 1, "--rdzv-endpoint", "127.0.0.1:1"], "launch"),
        (False, [], "launch"),
        (False, ["--plain"], "launch"),
    ],
)
def test_with_all_flags_it_ends_in_the_dashboard_on_a_terminal_and_in_lines_elsewhere(
    xtuner, terminal, monkeypatch, launched, tiny_model, chats, tmp_path, is_terminal, flags, way
):
    monkeypatch.setattr("xtuner.cli.sft.check_endpoint", lambda endpoint, is_host_here: None)
    terminal(is_terminal, is_terminal)
    complete = ["--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", tmp_path]
    done = xtuner("sft", *complete, "--nproc-per-node", 1, *flags)
    assert done.exit_code == 0, done.stderr
    assert [name for name, _ in launched] == [way]

"""The model path, typed wrong, in real processes: the same words everywhere, and one key at a terminal to go on."""

import shutil

import pytest
from commands import ENTRY, run
from hub_dirs import make_cached
from terminals import Terminal


def _cache_of(model_dir, directory, revisions=("abc123",), main=0):
    """A Hub cache folder whose snapshots are copies of a model that trains."""
    repo = make_cached(directory, revisions=revisions, main=main)
    for revision in revisions:
        shutil.rmtree(repo / "snapshots" / revision)
        shutil.copytree(model_dir, repo / "snapshots" / revision)
    return repo


@pytest.mark.parametrize("kind", ["nothing", "a Hub id", "a cached model", "snapshots/", "a file"])
def test_the_same_words_everywhere(kind, tiny_model, chats, tmp_path):
    repo = _cache_of(tiny_model("qwen3"), tmp_path)
    path = {
        "nothing": tmp_path / "none",
        "a Hub id": "Qwen/Qwen3-8B",
        "a cached model": repo,
        "snapshots/": repo / "snapshots",
        "a file": chats,
    }[kind]
    flags = ["--load-from", path, "--dataset", chats, "--work-dir", tmp_path / "work"]
    checked = run("xtuner", "check-model", path)
    launched = run("xtuner", "sft", *flags)
    entered = run("torchrun", "--nproc-per-node", 1, ENTRY, *flags)
    message = checked.stdout.splitlines()[0].partition(": ")[2]
    hint = checked.stdout.splitlines()[1].partition("hint: ")[2]
    assert message and hint
    for done in (launched, entered):
        assert f"error: {message}\n\nhint: {hint}\n" in done.stderr
    assert checked.returncode == launched.returncode == 3
    # torchrun itself ends with 1, whatever its ranks end with; it names their code.
    assert entered.returncode == 1 and "exitcode  : 3" in entered.stderr
    assert run("python", ENTRY, *flags).returncode == 3
    if kind not in ("nothing", "a Hub id"):  # as a place for a download those are new directories
        downloaded = run("xtuner", "download", "Qwen/Qwen3-8B", "--local-dir", path)
        assert f"error: {message}\n\nhint: {hint}\n" in downloaded.stderr and downloaded.returncode == 3


def _flags(path, chats, tmp_path):
    return ["--load-from", path, "--dataset", chats, "--total-step", 1, "--work-dir", tmp_path / "work", "--dry-run"]


def test_one_key_takes_the_snapshot(tiny_model, chats, tmp_path):
    repo = _cache_of(tiny_model("qwen3"), tmp_path)
    snapshot = repo / "snapshots" / "abc123"
    with Terminal("sft", *_flags(repo, chats, tmp_path), NO_COLOR="1") as terminal:
        shown = terminal.read_until("[Y/n]")
        assert "in a Hub cache" in shown and f"use its snapshot {snapshot}" in shown.replace("\r\n", "")
        terminal.wait_until_asleep()
        terminal.type("y")
        code, shown = terminal.read_to_end()
    assert code == 0 and "using --load-from" in shown and f'"load_from": "{snapshot}"' in shown.replace("\r\n", "")


def test_yes_never_asks_and_takes_the_only_one(tiny_model, chats, tmp_path):
    """At a terminal as without one."""
    repo = _cache_of(tiny_model("qwen3"), tmp_path, revisions=("abc123", "def456"))
    flags = [*_flags(repo, chats, tmp_path), "--yes"]
    with Terminal("sft", *flags, NO_COLOR="1") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0 and "[Y/n]" not in shown and "using --load-from" in shown
    assert f'"load_from": "{repo / "snapshots" / "abc123"}"' in shown.replace("\r\n", "")
    (repo / "refs" / "main").unlink()
    with Terminal("sft", *flags, NO_COLOR="1") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 3 and "error: " in shown and "use which?" not in shown
    assert run("xtuner", "sft", *flags).returncode == 3


def test_any_other_key_leaves_with_the_code_of_the_error(tiny_model, chats, tmp_path):
    repo = _cache_of(tiny_model("qwen3"), tmp_path)
    with Terminal("sft", *_flags(repo, chats, tmp_path), NO_COLOR="1") as terminal:
        terminal.read_until("[Y/n]")
        terminal.wait_until_asleep()
        terminal.type("n")
        code, shown = terminal.read_to_end()
    assert code == 3 and "using" not in shown and "error" not in shown


def test_a_digit_takes_one_of_several(tiny_model, chats, tmp_path):
    repo = _cache_of(tiny_model("qwen3"), tmp_path, revisions=("abc123", "def456"), main=None)
    with Terminal("sft", *_flags(repo, chats, tmp_path), NO_COLOR="1") as terminal:
        choices = terminal.read_until("[1-2,")
        terminal.wait_until_asleep()
        terminal.type("2")
        code, shown = terminal.read_to_end()
    second = choices[choices.index("2  /") :].replace("\r\n", "")
    revision = "def456" if "def456" in second else "abc123"
    assert code == 0 and f"snapshots/{revision}" in shown[shown.index("using --load-from") :].replace("\r\n", "")


def test_nothing_to_choose_asks_nothing(chats, tmp_path):
    with Terminal("sft", *_flags(tmp_path / "none", chats, tmp_path), NO_COLOR="1") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 3 and "error: there is no model directory" in shown and "[Y/n]" not in shown


def test_deep_shows_how_far_it_is(tiny_model):
    with Terminal("check-model", tiny_model("qwen3"), "--deep", NO_COLOR="1") as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0 and "reading weights" in shown and shown.rstrip().endswith("OK: this model can be trained")

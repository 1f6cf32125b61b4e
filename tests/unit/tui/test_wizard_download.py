"""A model of the Hub, downloaded from within the guided launch: a real HTTP server, driven by keys."""

from pathlib import Path

import pytest
from hub_server import TOKEN, Repo, model_files
from huggingface_hub import constants
from rich.cells import cell_len
from wizard_screen import SIZES, drive

from xtuner.language import speak
from xtuner.tui.wizard.download_screen import DownloadScreen

COMMIT = "a" * 40
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def files():
    return model_files(num_shards=3)


@pytest.fixture
def server(hub, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = hub({"org/tiny": Repo.of(files)})
    monkeypatch.setenv("HF_ENDPOINT", started.url)
    return started


def _snapshot():
    return Path(constants.HF_HUB_CACHE) / "models--org--tiny" / "snapshots" / COMMIT


async def _name_model(screen, text="org/tiny"):
    """Answer the question for the model with a name; that alone asks nobody."""
    await screen.press(*text)
    await screen.wait_for("Ctrl+R downloads")


def _content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("size", SIZES)
def test_one_key_shows_the_plan_a_second_one_downloads(server, files, size, capfd):
    async def steps(screen):
        await _name_model(screen)
        assert "HUB_ID" in screen.text and server.requests == []
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        for words in ("org/tiny", f"main ({COMMIT[:12]})", f"{server.url} (HF_ENDPOINT)", "7 files", "free disk"):
            assert words in screen.one_line
        assert server.downloads("safetensors") == [] and not _snapshot().exists()
        await _check_frame_in_chinese(screen, size)
        _check_frame(screen, size)
        await screen.press("enter")
        await screen.wait_for("OK: this model can be trained")
        assert screen.answers.text("load_from") == str(_snapshot()) and screen.answers.source("load_from") == "fix"
        assert not isinstance(screen.app.screen, DownloadScreen)

    drive(steps, size=size)
    assert _content(_snapshot()) == files
    assert (_snapshot().parents[1] / "refs" / "main").read_text() == COMMIT
    assert capfd.readouterr() == ("", "")


def _check_frame(screen, size):
    """The box stands whole on the screen."""
    assert len(screen.lines) == size[1] and {"╭", "╮", "╰", "╯"} <= set(screen.text)


async def _check_frame_in_chinese(screen, size):
    """Characters of two cells leave the box as it is."""
    speak("zh")
    try:
        screen.app.screen.show()
        await screen.wait_for("Enter：下载")
        _check_frame(screen, size)
        assert {cell_len(line) for line in screen.lines} == {size[0]}
    finally:
        speak("en")
    screen.app.screen.show()
    await screen.wait_for("Enter: download")


def test_a_hub_that_does_not_answer_is_left_and_asked_again(server):
    server.fault("/api/models/org/tiny/revision", stall=True)

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for(f"asking {server.url} (HF_ENDPOINT) for org/tiny")
        await screen.until(lambda: server.requests)
        await screen.press("escape")
        assert not isinstance(screen.app.screen, DownloadScreen)
        await screen.wait_for("Ctrl+R downloads")
        server.release.set()
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")

    drive(steps)


def test_a_failure_in_the_background_is_told_and_shown(server):
    server.fault(SHARD, stall=True)

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        await screen.press("enter")
        await screen.wait_for("6 of 7 files")
        await screen.press("b", "f2")
        server.fault(SHARD, status=403, times=100)
        server.release.set()
        await screen.until(lambda: [note for note in screen.app._notifications if "HTTP 403" in note.message])
        await screen.press("f1", "ctrl+r")
        await screen.wait_for("Enter: try again")
        assert "HTTP 403" in screen.one_line

    drive(steps)


def test_stopped_in_the_middle_it_goes_on_from_there(server, files):
    server.fault(SHARD, stall=True)

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        await screen.press("enter")
        await screen.until(lambda: server.downloads(SHARD) and "6 of 7 files" in screen.text)
        _check_frame(screen, (80, 24))
        await screen.press("escape")
        await screen.wait_for("Enter: go on")
        assert "are kept for" in screen.one_line and screen.answers.text("load_from") == "org/tiny"
        await screen.press("escape")
        assert not isinstance(screen.app.screen, DownloadScreen) and not (_snapshot() / SHARD).exists()
        await screen.press("ctrl+r")
        await screen.wait_for("are here already")
        await screen.press("enter")
        await screen.wait_for("waiting for the last connection")  # which still holds the file
        server.release.set()
        await screen.wait_for("OK: this model can be trained")

    drive(steps)
    rest = server.downloads(SHARD)[-1]
    assert rest.range is not None and _content(_snapshot()) == files


def test_in_the_background_other_questions_are_answered(server):
    server.fault(SHARD, stall=True)

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        await screen.press("enter")
        await screen.wait_for("6 of 7 files")
        await screen.press("b", "f4")
        await screen.type("lr", "1e-4")
        await screen.press("f1")
        await screen.until(lambda: "Ctrl+R shows the download of org/tiny: " in screen.one_line)
        await screen.press("ctrl+r")
        await screen.wait_for("go on in the background")
        await screen.press("ctrl+c")  # as Esc: the questions stay
        await screen.wait_for("Enter: go on")
        server.release.set()
        await screen.press("enter", "b")
        await screen.wait_for("OK: this model can be trained")
        assert screen.answers.text("load_from") == str(_snapshot()) and screen.answers.text("lr") == "1e-4"

    drive(steps)


def test_what_the_cache_has_is_offered_and_the_newest_is_a_key_away(server, files):
    new = {**files, "config.json": files["config.json"] + b"\n"}

    async def fetch(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        await screen.press("enter")
        await screen.wait_for("OK: this model can be trained")

    drive(fetch)
    server.repos["org/tiny"] = Repo.of(new, commit="b" * 40)
    num_requests, num_weights = len(server.requests), len(server.downloads("safetensors"))

    async def again(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("is in the Hub cache already")
        await screen.press("enter")
        await screen.wait_for("OK: this model can be trained")
        assert screen.answers.text("load_from") == str(_snapshot()) and len(server.requests) == num_requests

    drive(again)

    async def newest(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("is in the Hub cache already")
        await screen.press("d")
        await screen.wait_for("are here already")
        await screen.press("enter")
        await screen.until(lambda: screen.answers.text("load_from") == str(_snapshot().with_name("b" * 40)))

    drive(newest)
    assert len(server.downloads("safetensors")) == num_weights


@pytest.mark.parametrize(
    ("name", "options", "token", "words", "hint"),
    [
        ("org/none", {}, None, "there is no org/none at", "check the name; for a private one, pass a token"),
        ("org/gated", {"gated": True}, None, "org/gated is gated", "agree to its terms at"),
        ("org/private", {"private": True}, "hf_wrongwrong", "or it is private and your token cannot see it", "check"),
    ],
)
def test_refusals_have_the_words_of_the_command_line(
    server, files, download, monkeypatch, name, options, token, words, hint
):
    if options:
        server.repos[name] = Repo.of(files, **options)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    _, _, told = download(name)

    async def steps(screen):
        await _name_model(screen, name)
        await screen.press("ctrl+r")
        await screen.until(lambda: "Enter: download" in screen.text or "try again" in screen.text)
        if "Enter: download" in screen.text:
            await screen.press("enter")
        await screen.wait_for("Enter: try again")
        error = screen.app._download.state.error
        assert f"error: {error.message}\n\nhint: {error.hint}\n" in told
        assert words in error.message and hint in error.hint
        assert error.message[:40] in screen.one_line and TOKEN not in screen.text
        await screen.press("escape")
        assert screen.answers.text("load_from") == name and screen.step == "model"

    drive(steps)


def test_no_network_is_said_and_tried_again(server, files, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("no connection to 127.0.0.1:9")
        assert "check the network and the proxy" in screen.one_line
        await screen.press("escape")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")

    drive(steps)


def test_a_disk_too_small_refuses_the_first_byte(server, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))

    async def steps(screen):
        await _name_model(screen)
        await screen.press("ctrl+r")
        await screen.wait_for("Enter: download")
        await screen.press("enter")
        await screen.wait_for("are to be downloaded, and")
        assert "free some space" in screen.one_line and server.downloads("safetensors") == []

    drive(steps)

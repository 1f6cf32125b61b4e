"""A model of the Hub through the guided launch in a real pseudo-terminal: by numbered prompts, and on the screen."""

import pytest
from hub_server import HubServer, Repo, model_files
from terminals import ScreenTerminal, Terminal

SNAPSHOT = f"hub/models--org--tiny/snapshots/{'a' * 40}"
SHARD = "model-00002-of-00003.safetensors"
CTRL_C, CTRL_R, ESCAPE = "\x03", "\x12", "\x1b"


@pytest.fixture(scope="module")
def files():
    return model_files(num_shards=3)


@pytest.fixture
def server(files):
    with HubServer({"org/tiny": Repo.of(files)}) as hub:
        yield hub


@pytest.fixture
def environment(server, tmp_path):
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")
    return {"HF_HOME": str(tmp_path), "HF_ENDPOINT": server.url, "NO_PROXY": "*", **offline}


def _content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_by_plain_prompts(server, environment, files, tmp_path):
    server.fault(SHARD, stall=True)
    with Terminal("sft", "--plain", **environment) as terminal:
        terminal.read_until("--load-from: ")
        terminal.type("org/none\r")
        terminal.read_until("f downloads org/none from the Hub")
        terminal.read_until("q leave: ")
        assert server.requests == []
        terminal.type("f\r")
        terminal.read_until("there is no org/none at")
        terminal.read_until("q leave: ")
        terminal.type("1\r")
        terminal.read_until("--load-from (Enter keeps org/none): ")
        terminal.type("org/tiny\r")
        terminal.read_until("q leave: ")
        terminal.type("f\r")
        terminal.read_until(f"{server.url} (HF_ENDPOINT), without a token")
        terminal.read_until("download it (")
        terminal.read_until("y or n: ")
        assert server.downloads(SHARD) == []
        terminal.type("y\r")
        terminal.read_until("downloaded ")  # seconds later, half of the last file is not there
        terminal.type(CTRL_C)
        terminal.read_until("stopped: ")
        server.release.set()
        terminal.read_until("q leave: ")
        terminal.type("f\r")
        # What the library logs is a line of ours at most, and none of its own.
        assert "\nTrying" not in terminal.read_until("to fetch     1 files")
        terminal.read_until("y or n: ")
        terminal.type("y\r")
        terminal.read_until(f"1. --load-from: {tmp_path / SNAPSHOT} (fix)")
        terminal.read_until("OK: this model can be trained")
        terminal.read_until("q leave: ")
        terminal.type("q\r")
        exit_code, shown = terminal.read_to_end()
    assert exit_code == 0, shown
    assert _content(tmp_path / SNAPSHOT) == files


def test_on_the_screen_in_chinese(server, environment, files, tmp_path):
    with ScreenTerminal("sft", size=(80, 24), TERM="xterm-256color", LANGUAGE="zh", **environment) as terminal:
        terminal.wait_for_text("要训练哪个模型？")
        terminal.type("org/tiny")
        terminal.wait_for_text("Ctrl+R 从 Hub 下载 org/tiny")
        terminal.type(CTRL_R)
        terminal.wait_for_text("Enter：下载")
        terminal.type("\r")
        terminal.wait_for_text("✓ 通过：这个模型可以训练")
        assert not any("%" in line or "WARNING" in line for line in terminal.lines)
        terminal.type(CTRL_C)
        terminal.wait_for_text("y 或 Enter")
        terminal.type("y")
        exit_code, shown = terminal.read_to_end()
    assert exit_code == 0 and "Traceback" not in shown
    assert _content(tmp_path / SNAPSHOT) == files

"""`xtuner download` as a process: Ctrl-C and kill -9 in the middle, the bar on a terminal, one key to answer with."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import BIN, ROOT, run
from hub_server import HubServer, Repo, model_files
from terminals import Terminal

NAME = "model-00002-of-00002.safetensors"
COMMIT = "a" * 40
# huggingface_hub hands on 10 MiB at a time: half of this file is one of them and a bit.
SHARD_BYTES = 32 * 2**20


@pytest.fixture(scope="module")
def files():
    return model_files(num_shards=2, shard_bytes=SHARD_BYTES)


@pytest.fixture
def server(files):
    with HubServer({"org/tiny": Repo.of(files)}) as hub:
        yield hub


@pytest.fixture
def environment(tmp_path):
    return {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "NO_PROXY": "*"}


@pytest.fixture
def arguments(server, tmp_path):
    return ["download", "org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m"]


def _wait_for_half(directory):
    """Until the stalled shard has all that will come, and the other one is whole."""
    while True:
        sizes = [path.stat().st_size for path in Path(directory).rglob(f"{NAME}.*.incomplete")]
        if sizes and sizes[0] >= SHARD_BYTES // 4 and (Path(directory) / NAME.replace("2-of", "1-of")).exists():
            return
        time.sleep(0.05)


def _assert_goes_on(server, arguments, environment, files, tmp_path):
    [partial] = (tmp_path / "m").rglob(f"{NAME}.*.incomplete")
    kept = partial.stat().st_size
    server.release.set()
    num_before = len(server.downloads())
    done = run("xtuner", *arguments, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'm'}\n"), done.stderr
    [rest] = [request for request in server.downloads()[num_before:] if request.path.endswith(".safetensors")]
    assert rest.path.endswith(NAME) and rest.range == f"bytes={kept}-" and kept >= SHARD_BYTES // 4
    for name, content in files.items():
        assert (tmp_path / "m" / name).read_bytes() == content
    assert not list((tmp_path / "m").rglob("*.incomplete"))


def test_ctrl_c_keeps_what_came(server, arguments, environment, files, tmp_path):
    server.fault(NAME, stall=True)
    with Terminal(*arguments, **environment) as terminal:
        _wait_for_half(tmp_path / "m")
        terminal.type("\x03")
        code, shown = terminal.read_to_end()
    assert code == 7 and "Traceback" not in shown
    assert re.search(r"stopped: [\d.]+ MiB of [\d.]+ MiB are kept for .*/m", shown)
    assert "run the same command again: it goes on where it stopped" in shown
    _assert_goes_on(server, arguments, environment, files, tmp_path)


def test_kill_keeps_what_came(server, arguments, environment, files, tmp_path):
    server.fault(NAME, stall=True)
    process = subprocess.Popen(
        [str(BIN / "xtuner"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_half(tmp_path / "m")
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    _assert_goes_on(server, arguments, environment, files, tmp_path)


def test_the_bar_on_a_terminal(server, arguments, environment, tmp_path):
    with Terminal(*arguments, **environment) as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0
    assert re.search(r"\d of 6 files", shown) and NAME in shown and "MB/s" not in shown and "iB/s" in shown
    assert "OK: this model can be trained" in shown
    assert shown.replace("\r\n", "\n").rstrip("\n").splitlines()[-1] == str(tmp_path / "m")


def test_without_a_terminal_there_are_plain_lines_and_one_path(server, environment, tmp_path):
    done = run("xtuner", "download", "org/tiny", "--endpoint", server.url, env=environment)
    snapshot = tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    assert (done.returncode, done.stdout) == (0, f"{snapshot}\n")
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert run("xtuner", "check-model", done.stdout.strip()).returncode == 0


@pytest.mark.parametrize(
    ("key", "exit_code", "path", "num_fetched"),
    [("u", 0, "snapshot", 0), ("c", 0, "m", 0), ("d", 0, "m", 6), ("q", 7, None, 0), ("\x03", 7, None, 0)],
)
def test_a_model_that_the_cache_has_is_offered(server, environment, tmp_path, key, exit_code, path, num_fetched):
    done = run("xtuner", "download", "org/tiny", "--endpoint", server.url, env=environment)
    assert done.returncode == 0, done.stderr
    num_before = len(server.downloads())
    arguments = ["download", "org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m"]
    with Terminal(*arguments, **environment) as terminal:
        terminal.read_until("[q] quit")
        terminal.wait_until_asleep()
        terminal.type(key)
        code, shown = terminal.read_to_end()
    assert code == exit_code, shown
    assert len(server.downloads()) - num_before == num_fetched
    last = shown.replace("\r\n", "\n").rstrip("\n").splitlines()[-1]
    expected = {"snapshot": done.stdout.strip(), "m": str(tmp_path / "m")}.get(path, "stopped")
    assert last.endswith(expected) and (tmp_path / "m").exists() == (path == "m")

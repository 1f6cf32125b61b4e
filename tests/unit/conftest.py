"""What tests of downloads share: a Hub on loopback, an environment without one of the user's own, the command."""

import sys
import time
from types import SimpleNamespace

import pytest


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub({"org/name": Repo.of(files)})` starts a Hub; huggingface_hub may use the network, and waits are short."""
    from hub_server import HubServer
    from huggingface_hub import constants

    import xtuner.hub.retry

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16 * 1024)
    monkeypatch.setattr(xtuner.hub.retry, "_FIRST_WAIT_S", 0.01)
    hurried = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", hurried)
    servers = []

    def start(repos):
        servers.append(HubServer(repos))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def download(monkeypatch, capsys):
    """`download(*arguments)` runs `xtuner download` in this process: exit code, stdout, stderr."""
    from xtuner.cli.app import run

    def call(*arguments):
        arguments = ["download", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["xtuner", *arguments])
        with pytest.raises(SystemExit) as left:
            run(arguments)
        return left.value.code or 0, *capsys.readouterr()

    return call

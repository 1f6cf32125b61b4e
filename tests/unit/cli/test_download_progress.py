"""How a download is shown while it goes on: plain lines here, bars on a terminal (tests/e2e)."""

import pytest

from xtuner.cli import progress
from xtuner.hub.download_plan import RemoteFile
from xtuner.hub.transfer import TransferProgress

FILE = RemoteFile("model-00003-of-00005.safetensors", 4 * 2**30, "0" * 40, "0" * 64)


def _at(done_bytes, current=FILE):
    return TransferProgress(done_bytes, 16 * 2**30, 2, 9, 85 * 2**20, current, 2**30)


def test_plain_lines_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.downloading_bar() as (on_progress, on_notice):
        on_progress(_at(1 * 2**30))
        on_progress(_at(4 * 2**30))
        on_progress(_at(5 * 2**30))
        on_notice("the server is busy\x1b[2J")
    assert capsys.readouterr() == (
        "",
        "downloaded 4.0 GiB of 16.0 GiB (25 %), 2 of 9 files, 85.0 MiB/s, now model-00003-of-00005.safetensors\n"
        "the server is busy\\x1b[2J\n",
    )


@pytest.mark.parametrize(("done", "total", "share"), [(0, 0, 100), (0, 10, 0), (9, 10, 90)])
def test_share(done, total, share):
    assert f"({share} %)" in TransferProgress(done, total, 0, 1, 0.0, None, 0).sentence()


def test_time_left():
    assert _at(2**30).time_left == "0:03:00" and _at(16 * 2**30).time_left == "0:00:00"
    assert TransferProgress(0, 10, 0, 1, 0.0, None, 0).time_left == ""

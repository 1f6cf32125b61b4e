"""`xtuner download` against a real HTTP server that does everything wrong: each fault its own message and way out."""

import errno
import fcntl
import hashlib
import os
import random
import re
import socket
from pathlib import Path

import pytest
from hub_server import Repo, git_sha1, model_files
from huggingface_hub import constants

NAME = "model-00002-of-00003.safetensors"


@pytest.fixture
def files():
    return model_files(num_shards=3)


@pytest.fixture
def server(hub, files):
    return hub({"org/tiny": Repo.of(files)})


@pytest.fixture
def fetch(download, server, tmp_path):
    """Download into `tmp_path/m`."""

    def call(*arguments):
        return download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m", *arguments)

    return call


def _content(directory):
    found = [path for path in Path(directory).rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def _digest(files):
    return hashlib.sha256(files[NAME]).hexdigest()


def _partials(directory):
    return list(Path(directory).rglob("*.incomplete"))


def _error_of(err):
    assert "Traceback" not in err
    return err[err.index("error: ") :]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("place", ["cache", "directory"])
def test_a_connection_cut_at_a_random_byte_goes_on_from_there(download, server, files, tmp_path, seed, place):
    cut = random.Random(seed).randrange(1, len(files[NAME]))
    server.fault(NAME, cut_after=cut)
    into = ["--local-dir", tmp_path / "m"] if place == "directory" else []
    code, out, _ = download("org/tiny", "--endpoint", server.url, *into)
    assert code == 0 and _content(out.strip()) == files
    whole, rest = server.downloads(NAME)
    kept = int(re.fullmatch(r"bytes=(\d+)-", rest.range)[1]) if rest.range else 0
    assert whole.range is None and cut - constants.DOWNLOAD_CHUNK_SIZE < kept <= cut
    assert not _partials(out.strip()) and not _partials(constants.HF_HUB_CACHE)


def test_cut_again_and_again(fetch, server, files, tmp_path):
    server.fault(NAME, cut_after=40_000, times=20)
    assert fetch()[0] == 0 and _content(tmp_path / "m") == files
    assert sum(request.sent for request in server.downloads(NAME)) < 2 * len(files[NAME])


def test_cut_in_a_small_file(fetch, server, files, tmp_path):
    server.fault("tokenizer.json", cut_after=20)
    assert fetch()[0] == 0 and _content(tmp_path / "m") == files


def test_what_came_before_a_failure_is_used_by_the_next_call(fetch, server, files, tmp_path):
    server.fault(NAME, cut_after=200_000)
    server.fault(_digest(files), status=500, times=99)
    code, out, err = fetch()
    assert (code, out) == (5, "") and "is out of order (HTTP 500" in err and "goes on where it stopped" in err
    [partial] = [path for path in _partials(tmp_path / "m") if _digest(files)[:12] in path.name]
    kept = partial.stat().st_size
    assert 180_000 < kept <= 200_000
    server.faults.clear()
    num_before = len(server.downloads(NAME))
    code, _, err = fetch()
    assert code == 0 and _content(tmp_path / "m") == files and not _partials(tmp_path / "m")
    assert "of them are here already" in err
    [rest] = server.downloads(NAME)[num_before:]
    assert rest.range == f"bytes={kept}-"


def test_a_server_that_ignores_range(fetch, server, files, tmp_path):
    server.ignores_range = True
    server.fault(NAME, cut_after=200_000)
    assert fetch()[0] == 0 and _content(tmp_path / "m") == files


@pytest.mark.parametrize("what", ["damaged", "longer than the file"])
def test_a_partial_file_that_is_wrong(fetch, server, files, tmp_path, what):
    content = bytes(100_000) if what == "damaged" else bytes(len(files[NAME]) + 1)
    folder = tmp_path / "m" / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.{_digest(files)[:12]}.incomplete").write_bytes(content)
    code, _, err = fetch()
    assert code == 0 and _content(tmp_path / "m") == files
    assert ("has another sha256 than the Hub lists; downloading it again" in err) == (what == "damaged")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("where", ["/api/models/org/tiny/revision", "/tree/", f"/{NAME}", "/config.json"])
def test_a_busy_server_is_waited_for(fetch, server, files, tmp_path, status, where):
    server.fault(where, status=status, headers={"Retry-After": "0"}, times=2)
    code, _, err = fetch()
    assert code == 0 and _content(tmp_path / "m") == files
    assert str(status) in err or "Rate limited" in err


def test_it_waits_as_long_as_it_is_asked_to(fetch, server, monkeypatch):
    waits = []
    monkeypatch.setattr("xtuner.hub.retry._sleep", waits.append)
    server.fault("/revision", status=503, headers={"Retry-After": "7"}, times=2)
    assert fetch()[0] == 0 and waits == [7.0, 7.0]


def test_a_server_that_asks_to_come_back_tomorrow(fetch, server):
    server.fault("/revision", status=429, headers={"Retry-After": "86400"})
    code, _, err = fetch()
    assert code == 5 and "too many requests from here (HTTP 429)" in err


def test_a_server_that_stays_out_of_order(fetch, server):
    server.fault("/revision", status=502, times=99)
    code, _, err = fetch()
    assert code == 5 and _error_of(err).startswith(f"error: {server.url} is out of order (HTTP 502")


@pytest.mark.parametrize("length", [1000, 400_000])
def test_a_file_of_another_size(fetch, server, files, tmp_path, length):
    server.fault(NAME, body=bytes(length), times=99)
    code, out, err = fetch()
    assert (code, out) == (3, "")
    if length < len(files[NAME]):
        assert f"{NAME} came with 1,000 bytes, and the Hub lists {len(files[NAME]):,}" in err
    else:
        assert re.search(rf"more bytes came for .*{NAME}.* than the {len(files[NAME]):,} that the Hub lists", err)
    assert "another endpoint" in err and NAME not in _content(tmp_path / "m")


@pytest.mark.parametrize("place", ["cache", "directory"])
def test_a_file_with_another_hash(download, server, files, tmp_path, place):
    server.fault(NAME, body=bytes(len(files[NAME])), times=99)
    into = ["--local-dir", tmp_path / "m"] if place == "directory" else []
    code, out, err = download("org/tiny", "--endpoint", server.url, *into)
    assert (code, out) == (3, "") and f"{NAME} does not have the hash that the Hub lists" in err
    assert "it was not kept" in err and len(server.downloads(NAME)) == 2
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not any(name == NAME or _digest(files)[:12] in name for name in found)
    server.faults.clear()
    assert download("org/tiny", "--endpoint", server.url, *into)[0] == 0


def test_a_file_with_another_hash_once(fetch, server, files, tmp_path):
    server.fault(NAME, body=bytes(len(files[NAME])))
    code, _, err = fetch()
    assert code == 0 and _content(tmp_path / "m") == files and "downloading it again" in err


@pytest.mark.parametrize("place", ["cache", "directory"])
def test_a_small_file_with_another_hash(download, server, files, tmp_path, place):
    server.fault("/config.json", body=b" " * len(files["config.json"]))
    into = ["--local-dir", tmp_path / "m"] if place == "directory" else []
    code, _, err = download("org/tiny", "--endpoint", server.url, *into)
    assert code == 3 and "config.json does not have the hash that the Hub lists" in err
    assert not [path for path in tmp_path.rglob("config.json") if path.exists()]
    assert not list(tmp_path.rglob(f"blobs/{git_sha1(files['config.json'])}"))
    assert download("org/tiny", "--endpoint", server.url, *into)[0] == 0


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "a/../../evil.json", "/evil.json", "C:/evil.json", "..\\evil.json", "a//b.json", "./a.json"],
)
def test_a_name_that_leads_out_of_the_folder(download, hub, files, tmp_path, name):
    server = hub({"org/tiny": Repo.of({**files, name: b"{}"})})
    for into in [], ["--local-dir", tmp_path / "in" / "m"], ["--include", "*"]:
        code, out, err = download("org/tiny", "--endpoint", server.url, *into)
        assert (code, out) == (3, "") and "which does not stay in its folder" in err
    assert not list(tmp_path.rglob("*")) and not server.downloads()


@pytest.mark.parametrize(
    "lie", [{"oid": "../../x"}, {"size": -1}, {"lfs": {"oid": "x/y", "size": 1, "pointerSize": 1}}]
)
def test_hashes_and_sizes_that_are_none(fetch, server, lie):
    server.repos["org/tiny"].tree_lies[NAME] = lie
    code, _, err = fetch()
    assert code == 3 and f"org/tiny lists {NAME} with size" in err


def test_a_hub_that_lists_another_hash_than_it_serves(fetch, server, tmp_path):
    server.repos["org/tiny"].tree_lies["config.json"] = {"oid": "0" * 40}
    code, _, err = fetch()
    assert code == 3 and "config.json does not have the hash" in err
    assert not (tmp_path / "m" / "config.json").exists()


def test_no_such_repository(download, server):
    code, _, err = download("org/tyni", "--endpoint", server.url)
    assert code == 2 and _error_of(err).startswith(f"error: there is no org/tyni at {server.url}")
    assert "hint: check the name" in err


def test_no_such_revision(fetch):
    code, _, err = fetch("--revision", "v9")
    assert (code, _error_of(err)) == (2, "error: org/tiny has no revision 'v9'\n\nhint: it has main\n")


def test_a_file_that_is_listed_and_not_there(fetch, server):
    server.fault(f"/{NAME}", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=9)
    code, _, err = fetch()
    assert code == 5 and "lists a file of org/tiny and then does not have it" in err


def test_no_network(download, files, hub, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hub({})
    code, _, err = download("org/tiny", "--endpoint", f"http://127.0.0.1:{port}", "--local-dir", tmp_path / "m")
    assert code == 5 and f"no connection to 127.0.0.1:{port}: " in err and "check the network and the proxy" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"[]", b'{"sha": "../x"}', b"{}"])
def test_something_that_is_no_hub(fetch, server, body):
    server.api_answers(body)
    code, _, err = fetch()
    assert code == 5 and f"{server.url} does not answer as a Hub does" in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_fills_up(fetch, server, files, tmp_path, monkeypatch, number):
    from xtuner.hub import partial_file

    real = partial_file.PartialFile.write

    def full(self, chunk):
        if self.size > 100_000:
            raise OSError(number, os.strerror(number), str(self.path))
        return real(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(partial_file.PartialFile, "write", full)
        code, _, err = fetch()
    assert code == 5 and "the disk is full: " in err and "free some space, then run the same command again" in err
    assert any(path.stat().st_size > 100_000 for path in _partials(tmp_path / "m"))
    assert fetch()[0] == 0 and _content(tmp_path / "m") == files


def test_a_directory_without_the_right_to_write(fetch, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".cache").write_text("a file where downloads keep their notes")
    code, _, err = fetch()
    assert code == 5 and "cannot write: " in err and "check the directory" in err


def test_two_processes_at_once(fetch, server, files, tmp_path):
    folder = tmp_path / "m" / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    partial = folder / f"{NAME}.{_digest(files)[:12]}.incomplete"
    with partial.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = fetch()
        assert code == 5 and "another process is downloading" in err and "hint: wait for it" in err
    assert fetch()[0] == 0 and _content(tmp_path / "m") == files


def test_a_link_where_the_partial_file_should_be_is_not_followed(fetch, files, tmp_path):
    folder = tmp_path / "m" / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (folder / f"{NAME}.{_digest(files)[:12]}.incomplete").symlink_to(tmp_path / "precious")
    code, _, err = fetch()
    assert code == 5 and "cannot write" in err and (tmp_path / "precious").read_text() == "mine"


def test_what_huggingface_hub_logs_is_said_once_and_cannot_move_the_cursor(fetch, server, caplog):
    server.fault("/config.json", status=503, headers={"Retry-After": "0"}, times=2, method="HEAD")
    code, _, err = fetch()
    assert code == 0 and err.count("HTTP Error 503 thrown while requesting HEAD") == 1 and "\x1b" not in err

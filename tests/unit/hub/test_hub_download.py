"""`xtuner download` against a real HTTP server that goes well: what is fetched, where it lies, what is said."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hub_server import TOKEN, Repo, model_files, safetensors
from huggingface_hub import constants

from xtuner.hub.model_dir import inspect_model

COMMIT, OLD = "a" * 40, "b" * 40
EXTRAS = {
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"open('canary', 'w')",
    "original/consolidated.safetensors": b"twice",
    "README.md": b"# tiny",
}


@pytest.fixture
def files():
    return model_files(num_shards=3)


@pytest.fixture
def server(hub, files):
    return hub({"org/tiny": Repo.of({**files, **EXTRAS})})


def _snapshot(commit=COMMIT, repo="org--tiny"):
    return Path(constants.HF_HUB_CACHE) / f"models--{repo}" / "snapshots" / commit


def _content(directory):
    found = [path for path in Path(directory).rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def test_into_the_cache(download, server, files):
    code, out, err = download("org/tiny", "--endpoint", server.url)
    assert (code, out) == (0, f"{_snapshot()}\n")
    assert _content(_snapshot()) == files
    assert f"asking {server.url} (--endpoint)" in err and "OK: this model can be trained" in err
    assert (_snapshot().parents[1] / "refs" / "main").read_text() == COMMIT
    assert all(path.is_symlink() for path in _snapshot().iterdir())


def test_the_cache_is_one_that_huggingface_hub_knows(download, server, monkeypatch):
    from huggingface_hub import scan_cache_dir, snapshot_download

    download("org/tiny", "--endpoint", server.url)
    [repo] = scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert repo.repo_id == "org/tiny" and not scan_cache_dir(constants.HF_HUB_CACHE).warnings
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot_download("org/tiny", cache_dir=constants.HF_HUB_CACHE) == str(_snapshot())


def test_a_second_time_nothing_is_fetched(download, server):
    download("org/tiny", "--endpoint", server.url)
    before = len(server.downloads())
    code, out, err = download("org/tiny", "--endpoint", server.url)
    assert (code, out) == (0, f"{_snapshot()}\n")
    assert len(server.downloads()) == before > 0
    assert "org/tiny is there already: all 7 files" in err


def test_into_a_directory(download, server, files, tmp_path):
    code, out, _ = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")
    assert (code, out) == (0, f"{tmp_path / 'm'}\n")
    assert _content(tmp_path / "m") == files
    assert not any(path.is_symlink() for path in (tmp_path / "m").rglob("*"))
    assert not Path(constants.HF_HUB_CACHE).exists()
    mode = (tmp_path / "m" / "model-00001-of-00003.safetensors").stat().st_mode
    assert mode & 0o777 == 0o666 & ~_umask()
    before = len(server.downloads())
    _, _, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")
    assert len(server.downloads()) == before and "is there already" in err


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_dry_run_prints_the_plan_and_writes_nothing(download, server, files, tmp_path):
    code, out, _ = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m", "--dry-run")
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"org/tiny at {COMMIT} (main)"
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*sorted(files), *sorted(EXTRAS)]
    assert any(line.startswith("  modeling_tiny.py") and "code, which is never run" in line for line in lines)
    assert lines[-2].startswith("7 files, ") and lines[-1] == f"to {tmp_path / 'm'}"
    assert list(tmp_path.iterdir()) == [] and server.downloads() == []


def test_names_that_a_terminal_would_act_on(download, hub, files):
    server = hub({"org/tiny": Repo.of({**files, "a\x1b[2J\n\u202eb.json": b"{}", "[red]c[foo].json": b"{}"})})
    code, out, err = download("org/tiny", "--endpoint", server.url, "--dry-run")
    assert code == 0 and "\x1b" not in out + err and "\u202e" not in out
    assert "  a\\x1b[2J\\n\\u202eb.json" in out and "  [red]c[foo].json" in out
    assert download("org/tiny", "--endpoint", server.url)[0] == 0
    assert set(_content(_snapshot())) == {*files, "[red]c[foo].json"}


def test_files_too_large_for_plain_http_are_verified_too(download, server, files, monkeypatch):
    """Those go through huggingface_hub's Xet client, which a loopback server cannot be: here, through its HTTP."""
    monkeypatch.setattr("xtuner.hub.fetch.Fetcher._gathers", lambda self, file: False)
    name = "model-00002-of-00003.safetensors"
    server.fault(name, body=bytes(len(files[name])))
    code, _, err = download("org/tiny", "--endpoint", server.url)
    assert code == 3 and f"{name} does not have the hash that the Hub lists" in err
    assert download("org/tiny", "--endpoint", server.url)[0] == 0 and _content(_snapshot()) == files


def test_dry_run_as_json(download, server, files):
    _, out, _ = download("org/tiny", "--endpoint", server.url, "--dry-run", "--json")
    plan = json.loads(out)
    assert [file["path"] for file in plan["files"]] == sorted(files)
    assert plan["size_bytes"] == plan["missing_bytes"] == sum(map(len, files.values()))
    assert {item["path"] for item in plan["left_out"]} == set(EXTRAS)
    assert (plan["commit"], plan["path"]) == (COMMIT, str(_snapshot()))


def test_outcome_as_json(download, server):
    code, out, _ = download("org/tiny", "--endpoint", server.url, "--json")
    outcome = json.loads(out)
    assert (code, outcome["path"], outcome["report"]["ok"]) == (0, str(_snapshot()), True)


def test_the_verdict_is_the_exit_code(download, hub, files):
    server = hub({"org/tiny": Repo.of({**files, "config.json": b'{"architectures": ["X"]}'})})
    code, out, err = download("org/tiny", "--endpoint", server.url)
    assert (code, out) == (3, f"{_snapshot()}\n")
    assert "FAIL NO_MODEL_TYPE" in err and "FAIL: this model cannot be trained" in err


def test_a_tag_a_commit_and_a_new_commit_share_what_is_the_same(download, hub, files):
    new = {**files, "config.json": files["config.json"] + b"\n"}
    server = hub({"org/tiny": Repo({OLD: files, COMMIT: new}, {"main": COMMIT, "v1": OLD})})
    for arguments, commit in (["--revision", "v1"], OLD), (["--revision", OLD], OLD), ([], COMMIT):
        assert download("org/tiny", "--endpoint", server.url, *arguments)[:2] == (0, f"{_snapshot(commit)}\n")
    assert len(server.downloads("safetensors")) == 4  # three shards and the index, once
    assert _content(_snapshot(OLD)) == files and _content(_snapshot(COMMIT)) == new


def test_a_directory_is_brought_to_a_new_commit(download, hub, files, tmp_path):
    new = model_files(num_shards=3, seed=7)
    server = hub({"org/tiny": Repo({OLD: files, COMMIT: new}, {"main": COMMIT, "v1": OLD})})
    into = ["--endpoint", server.url, "--local-dir", tmp_path / "m"]
    assert download("org/tiny", *into, "--revision", "v1")[0] == 0 and _content(tmp_path / "m") == files
    assert download("org/tiny", *into)[0] == 0 and _content(tmp_path / "m") == new


def test_the_index_decides_on_weights_in_a_second_form(download, hub, files):
    twice = {**files, "consolidated.safetensors": safetensors({"all": [9, 9]})}
    server = hub({"org/tiny": Repo.of(twice)})
    code, out, _ = download("org/tiny", "--endpoint", server.url, "--dry-run")
    assert code == 0 and not Path(constants.HF_HUB_CACHE).exists()
    assert "consolidated.safetensors" in out.partition("left out:")[2]
    assert "model.safetensors.index.json does not name it" in out


def test_include_fetches_what_is_asked_for_and_no_code_runs(download, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = download("org/tiny", "--endpoint", server.url, "--include", "*.py", "--include", "*.bin", "--json")
    assert code == 3 and sorted(_content(_snapshot())) == ["modeling_tiny.py", "pytorch_model.bin"]
    assert not (tmp_path / "canary").exists()


def test_names_with_patterns_and_spaces_in_them(download, hub, files, tmp_path):
    odd = {**files, "tokenizer [v1]*.json": b"{}", "模型 100%.json": b"{}", "a?b#c.json": b"{}"}
    server = hub({"org/tiny": Repo.of(odd)})
    assert download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")[0] == 0
    assert _content(tmp_path / "m") == odd


def test_two_files_with_the_same_content(download, hub, files, tmp_path):
    shard = files["model-00001-of-00003.safetensors"]
    server = hub({"org/tiny": Repo.of({**files, "copy/a.safetensors": shard, "copy/b.safetensors": shard})})
    for into in [], ["--local-dir", tmp_path / "m"]:
        assert download("org/tiny", "--endpoint", server.url, "--include", "*", *into)[0] == 0
    assert _content(_snapshot())["copy/b.safetensors"] == shard == _content(tmp_path / "m")["copy/a.safetensors"]


class TestCachedBefore:
    """What the Hub cache has is not downloaded again."""

    @pytest.fixture(autouse=True)
    def cached(self, download, server):
        assert download("org/tiny", "--endpoint", server.url)[0] == 0
        self.num_downloads = len(server.downloads())

    def test_found_named_and_copied(self, download, server, files, tmp_path):
        code, out, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")
        assert (code, out) == (0, f"{tmp_path / 'm'}\n") and _content(tmp_path / "m") == files
        assert f"  xtuner sft --load-from {_snapshot()}\n" in err and "--force downloads it again" in err
        assert len(server.downloads()) == self.num_downloads

    def test_forced(self, download, server, files, tmp_path):
        code, _, _ = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m", "--force")
        assert code == 0 and _content(tmp_path / "m") == files
        assert len(server.downloads()) == 2 * self.num_downloads

    def test_forced_in_the_cache(self, download, server, files):
        shard = _snapshot() / "model-00002-of-00003.safetensors"
        shard.resolve().write_bytes(bytes(shard.stat().st_size))
        assert download("org/tiny", "--endpoint", server.url, "--force")[0] == 0
        assert _content(_snapshot()) == files and len(server.downloads()) == 2 * self.num_downloads

    def test_a_damaged_blob_is_not_copied(self, download, server, files, tmp_path):
        name = "model-00002-of-00003.safetensors"
        blob = (_snapshot() / name).resolve()
        blob.write_bytes(bytes(blob.stat().st_size))
        code, _, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")
        assert code == 0 and _content(tmp_path / "m") == files
        assert f"is damaged; downloading {name}" in err
        assert len(server.downloads(name)) == 2

    @pytest.mark.parametrize("way", ["no network", "offline", "gated"])
    def test_without_a_connection_it_is_offered(self, download, server, tmp_path, monkeypatch, way):
        endpoint = server.url
        if way == "no network":
            endpoint = "http://127.0.0.1:9"  # discard: nothing listens there
        elif way == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            server.fault("/revision", status=403, headers={"X-Error-Code": "GatedRepo"})
        code, _, err = download("org/tiny", "--endpoint", endpoint, "--local-dir", tmp_path / "m")
        assert code == 5 and err.endswith(f"\nor use what the Hub cache has: xtuner sft --load-from {_snapshot()}\n")

    def test_a_part_of_it(self, download, server, files, tmp_path):
        (_snapshot() / "config.json").unlink()
        (_snapshot() / "model-00003-of-00003.safetensors").resolve().unlink()
        assert download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")[0] == 0
        assert _content(tmp_path / "m") == files
        assert len(server.downloads("-of-")) == 3 + 1


class TestPlaces:
    """Directories that something else is in."""

    def test_files_of_the_user_are_not_written_over(self, download, server, files, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model-00001-of-00003.safetensors").write_bytes(b"mine")
        code, out, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path)
        assert (code, out) == (2, "")
        assert "holds other files than org/tiny has: config.json, model-00001-of-00003.safetensors" in err
        assert (tmp_path / "config.json").read_text() == "{}"
        assert download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path, "--force")[0] == 0
        assert _content(tmp_path) == files

    def test_the_same_files_from_elsewhere_are_taken(self, download, server, files, tmp_path):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        assert download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path)[0] == 0
        assert server.downloads("-of-") == []

    def test_a_file_that_was_edited_after_its_download(self, download, server, tmp_path):
        download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path)
        edited = tmp_path / "config.json"
        edited.write_text("{}")
        later = edited.stat().st_mtime + 10
        os.utime(edited, (later, later))
        code, _, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path)
        assert code == 2 and "holds other files than org/tiny has: config.json" in err

    @pytest.mark.parametrize("part", [".", "models--org--tiny", "models--org--tiny/snapshots"])
    def test_a_part_of_a_hub_cache_gets_the_words_of_check_model(self, download, server, part):
        download("org/tiny", "--endpoint", server.url)
        place = Path(constants.HF_HUB_CACHE) / part
        code, _, err = download("org/tiny", "--endpoint", server.url, "--local-dir", place)
        [finding] = inspect_model(place).findings
        assert code == 3 and err == f"error: {finding.message}\n\nhint: {finding.hint}\n"

    def test_a_home_that_no_shell_expanded(self, download, server, files, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        code, out, _ = download("org/tiny", "--endpoint", server.url, "--local-dir=~/m")
        assert (code, out) == (0, f"{tmp_path / 'm'}\n") and _content(tmp_path / "m") == files

    def test_a_file(self, download, tmp_path):
        (tmp_path / "file").touch()
        code, _, err = download("org/tiny", "--local-dir", tmp_path / "file")
        assert code == 3 and "is a file, and a model is a directory" in err

    def test_a_link_that_leads_out_of_the_directory(self, download, hub, files, tmp_path):
        server = hub({"org/tiny": Repo.of({**files, "sub/a.json": b"{}"})})
        (tmp_path / "m").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "m" / "sub").symlink_to(tmp_path / "elsewhere")
        code, _, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m", "--include", "*")
        assert code == 5 and "leads out of" in err and not list((tmp_path / "elsewhere").iterdir())

    def test_the_disk_is_asked_first(self, download, server, monkeypatch, tmp_path):
        usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        code, out, err = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m")
        assert (code, out) == (5, "") and "are to be downloaded" in err and "97.7 KiB free" in err
        assert server.downloads() == [] and not (tmp_path / "m").exists()
        code, out, _ = download("org/tiny", "--endpoint", server.url, "--local-dir", tmp_path / "m", "--dry-run")
        assert code == 5 and "7 files" in out


class TestAccess:
    """Tokens: where they go, and where they never go."""

    def test_a_private_repository(self, download, hub, files, monkeypatch, tmp_path):
        server = hub({"org/tiny": Repo.of(files, private=True)})
        code, _, err = download("org/tiny", "--endpoint", server.url)
        assert code == 2 and "or it is private and no token was sent" in err and "--token-file FILE" in err
        monkeypatch.setenv("HF_TOKEN", "hf_ofSomebodyElse")
        code, _, err = download("org/tiny", "--endpoint", server.url)
        assert code == 2 and "or it is private and your token cannot see it" in err
        (tmp_path / "token").write_text(TOKEN)
        code, out, err = download("org/tiny", "--endpoint", server.url, "--token-file", tmp_path / "token")
        assert code == 0 and "your token is sent there" in err
        _assert_kept_secret(server, out + err, Path(constants.HF_HUB_CACHE))

    def test_a_gated_repository(self, download, hub, files, monkeypatch):
        server = hub({"org/tiny": Repo.of(files, gated=True)})
        code, out, err = download("org/tiny", "--endpoint", server.url)
        assert (
            (code, out) == (5, "")
            and "org/tiny is gated" in err
            and f"agree to its terms at {server.url}/org/tiny" in err
        )
        assert server.downloads("-of-") == []
        monkeypatch.setenv("HF_TOKEN", "hf_ofSomebodyElse")
        assert "your token has no access to it" in download("org/tiny", "--endpoint", server.url)[2]
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        code, out, err = download("org/tiny", "--endpoint", server.url)
        assert code == 0
        _assert_kept_secret(server, out + err, Path(constants.HF_HUB_CACHE))

    def test_a_server_that_says_the_token_back(self, download, server, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        said = {"X-Error-Message": f"bad token {TOKEN}"}
        server.fault("/api/models/", status=403, headers=said)
        code, out, err = download("org/tiny", "--endpoint", server.url)
        assert code == 5 and "refuses the token (HTTP 403" in err and TOKEN not in out + err


def _assert_kept_secret(server, shown, folder):
    assert any(request.authorization == f"Bearer {TOKEN}" for request in server.requests)
    assert any(request.is_storage for request in server.requests)
    assert not any(request.authorization for request in server.requests if request.is_storage)
    assert TOKEN not in shown
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())

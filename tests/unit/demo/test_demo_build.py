import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from xtuner.demo.build import FORMAT_VERSION, DemoFiles, build_demo, demo_cache_dir
from xtuner.errors import EnvironmentFault, UsageError

FILES = {
    "chats.jsonl",
    "demo.json",
    "model/chat_template.jinja",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


def digests(directory: Path) -> dict[str, str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def start_build(directory: Path) -> "subprocess.Popen[str]":
    code = (
        "import sys; from pathlib import Path; from xtuner.demo.build import build_demo; build_demo(Path(sys.argv[1]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(directory)], stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return build_demo(tmp_path_factory.mktemp("demo") / "new")


def test_two_builds_are_the_same_bytes(demo: DemoFiles, tmp_path: Path) -> None:
    other = start_build(tmp_path / "other")
    error = other.communicate()[1]
    assert other.returncode == 0, error
    assert digests(demo.directory) == digests(tmp_path / "other")
    assert digests(demo.directory).keys() == FILES


def test_four_processes_make_one_good_demo(demo: DemoFiles, tmp_path: Path) -> None:
    builds = [start_build(tmp_path / "shared") for _ in range(4)]
    errors = [build.communicate()[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0, 0, 0], errors
    assert digests(tmp_path / "shared") == digests(demo.directory)
    assert not list((tmp_path / "shared").glob(".building-*"))


def test_a_complete_demo_is_used_as_it_is(demo: DemoFiles) -> None:
    before = demo.dataset.stat()
    assert build_demo(demo.directory) == demo
    assert demo.dataset.stat().st_mtime_ns == before.st_mtime_ns


def test_a_build_that_was_killed_is_finished(demo: DemoFiles, tmp_path: Path) -> None:
    build_demo(tmp_path)
    (tmp_path / "demo.json").unlink()
    (tmp_path / "chats.jsonl").unlink()
    build_demo(tmp_path)
    assert digests(tmp_path) == digests(demo.directory)


def test_what_is_in_the_way_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "chats.jsonl").write_text("my own chats")
    with pytest.raises(UsageError, match=r"chats\.jsonl is in the way") as caught:
        build_demo(tmp_path)
    assert caught.value.hint
    assert (tmp_path / "chats.jsonl").read_text() == "my own chats"

    (tmp_path / "chats.jsonl").unlink()
    build_demo(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    files = build_demo(tmp_path)
    weights = files.model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UsageError, match="model is in the way"):
        build_demo(tmp_path)


def test_a_file_instead_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a directory"):
        build_demo(tmp_path / "file")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        build_demo(tmp_path / "file" / "below")


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files = build_demo(tmp_path)
    finally:
        os.umask(old)
    assert (files.model_dir / "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert files.model_dir.stat().st_mode & 0o777 == 0o750


def test_the_data_set_is_one_chat_a_line(demo: DemoFiles) -> None:
    lines = demo.dataset.read_text(encoding="utf-8").splitlines()
    assert all(isinstance(json.loads(line), list) for line in lines)
    assert "省会" in demo.dataset.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "base"),
    [("/var/tmp/cache", Path("/var/tmp/cache")), ("relative", Path("/home/me/.cache")), ("", Path("/home/me/.cache"))],
)
def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, given: str, base: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert demo_cache_dir() == base / "xtuner" / "demo" / f"v{FORMAT_VERSION}"


def test_building_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from xtuner.demo.build import build_demo; build_demo(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

"""`xtuner cache`: lists what is kept, deletes what it is asked to."""

import json
import os
import time
from pathlib import Path

import pytest
import tiny_models

from xtuner.data.cache import TokenCache
from xtuner.data.options import SourceSpec
from xtuner.data.prepare import DataRequest, prepare_data


@pytest.fixture
def filled(tmp_path) -> Path:
    """A cache with the tokens of two data files."""
    tiny_models.write_tokenizer(tmp_path / "model")
    for name in ("a", "b"):
        tiny_models.make_chats(tmp_path / f"{name}.jsonl", num_rows=5, seed=ord(name))
        request = DataRequest([SourceSpec(str(tmp_path / f"{name}.jsonl"))], tmp_path / "model", num_workers=1)
        prepare_data(request, TokenCache(tmp_path / "cache"))
    return tmp_path / "cache"


def test_ls_shows_data_rows_and_size(xtuner, filled):
    done = xtuner("cache", "ls", "--cache-dir", filled)
    assert done.exit_code == 0 and done.stdout.count("jsonl") == 2 and "KiB" in done.stdout
    entries = json.loads(xtuner("cache", "ls", "--cache-dir", filled, "--json").stdout)
    assert [entry["rows"] for entry in entries] == [5, 5] and all(entry["tokens"] > 100 for entry in entries)


def test_rm_by_name_leaves_the_others(xtuner, filled):
    first, second = json.loads(xtuner("cache", "ls", "--cache-dir", filled, "--json").stdout)
    assert xtuner("cache", "rm", first["name"], "--cache-dir", filled).exit_code == 0
    left = json.loads(xtuner("cache", "ls", "--cache-dir", filled, "--json").stdout)
    assert [entry["name"] for entry in left] == [second["name"]]


def test_rm_of_what_was_long_unused(xtuner, filled):
    old = TokenCache(filled).entries()[0]
    os.utime(old.path, (time.time() - 40 * 86_400,) * 2)
    xtuner("cache", "rm", "--unused-days", 30, "--cache-dir", filled)
    assert len(TokenCache(filled).entries()) == 1 and not old.path.exists()


def test_rm_sweeps_what_dead_processes_left_and_spares_the_living(xtuner, filled):
    stores = filled / "stores"
    dead, alive = stores / ".v1-x.4194304.ab.tmp", stores / f".v1-x.{os.getpid()}.ab.tmp"  # beyond the largest pid
    for path in (dead, alive):
        path.mkdir()
    xtuner("cache", "rm", "--unused-days", 30, "--cache-dir", filled)
    assert not dead.exists() and alive.exists() and len(TokenCache(filled).entries()) == 2


def test_rm_all_and_an_empty_cache(xtuner, filled):
    assert xtuner("cache", "rm", "--all", "--cache-dir", filled).exit_code == 0 and not filled.exists()
    done = xtuner("cache", "ls", "--cache-dir", filled)
    assert done.exit_code == 0 and "holds nothing" in done.stderr


@pytest.mark.parametrize("flags", [["rm"], ["rm", "nothing"], ["ls", "--all"], ["sweep"]])
def test_unclear_wishes_are_usage_errors(xtuner, filled, flags):
    assert xtuner("cache", *flags, "--cache-dir", filled).exit_code == 2
    assert len(TokenCache(filled).entries()) == 2

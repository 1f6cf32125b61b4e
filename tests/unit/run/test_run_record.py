"""run.json: what is in it, and what must not be."""

import json
import subprocess
import sys

import pytest

from xtuner.run.record import MASK, describe_run, mask_command, mask_secrets


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.invalid", "-c", "core.hooksPath=/dev/null"]

    def git(*arguments):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    return tmp_path


def test_git_state_is_commit_and_changes_of_tracked_files(repository):
    state = describe_run([], {})["git"]
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (repository / "work_dirs").mkdir()
    (repository / "work_dirs" / "new").write_text("untracked")
    assert describe_run([], {})["git"]["dirty"] is False
    (repository / "a").write_text("2")
    assert describe_run([], {})["git"]["dirty"] is True


def test_outside_a_repository_or_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert describe_run([], {})["git"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_run([], {})["git"] is None


def test_a_repository_cannot_name_a_program_to_run(repository):
    trap = repository / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {repository / 'sprung'}\n")
    trap.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(trap)], cwd=repository, check=True)
    assert describe_run([], {})["git"]["dirty"] is False
    assert not (repository / "sprung").exists()
    subprocess.run(["git", "status"], cwd=repository, check=True, capture_output=True)
    assert (repository / "sprung").exists(), "the control: plain git status does run it"


def test_versions_are_read_without_importing_the_packages():
    program = (
        "import json, sys\nfrom xtuner.run.record import describe_run\n"
        "record = describe_run(['x'], {'load_from': 'm'})\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)\nprint(json.dumps(record))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert record["schema"] == 1 and record["created"][-6] in "+-"
    assert all(record["versions"][name] for name in ("python", "xtuner", "torch", "transformers", "safetensors"))
    assert record["cwd"] and record["host"] and record["cpu_count"]


def test_model_and_dataset_come_from_the_config():
    record = describe_run(["x"], {"load_from": None, "model_cfg": "c.json", "dataset": ["a.jsonl"]}, num_gpus=8)
    assert (record["model"], record["dataset"], record["num_gpus"]) == ("c.json", ["a.jsonl"], 8)


@pytest.mark.parametrize(
    "key", ["hf_token", "token", "wandb_api_key", "API-KEY", "db.password", "secret", "aws_secret"]
)
def test_secrets_are_masked_wherever_they_are(key):
    assert mask_secrets({"a": [{key: "canary", "b": 1}]}) == {"a": [{key: MASK, "b": 1}]}


@pytest.mark.parametrize("key", ["tokenizer_dir", "max_tokens", "eos_token", "keyboard", "monkey", "token_count"])
def test_words_that_only_look_like_secrets_stay(key):
    assert mask_secrets({key: "value"}) == {key: "value"}


def test_empty_and_numeric_values_stay():
    assert mask_secrets({"token": "", "key": None, "secret": 3}) == {"token": "", "key": None, "secret": 3}


def test_commands_are_masked():
    command = ["x", "--hf-token", "canary", "--api-key=canary", "TOKEN=canary", "--lr", "1e-5", "--key", "--lr"]
    assert mask_command(command) == [
        *("x", "--hf-token", MASK, f"--api-key={MASK}", f"TOKEN={MASK}", "--lr", "1e-5", "--key", "--lr")
    ]
    assert mask_command(["--dataset", "https://me:canary@host/x"]) == ["--dataset", f"https://{MASK}@host/x"]
    assert "canary" not in json.dumps(describe_run(command, {"dataset": {"url": "s3://k:canary@b", "key": "canary"}}))


def test_a_deleted_current_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    record = describe_run(["x"], {})
    monkeypatch.chdir(tmp_path)
    assert record["cwd"] is None and record["git"] is None

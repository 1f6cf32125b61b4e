"""`xtuner check-model` as it is typed: what it prints, and where, and its exit code."""

import hashlib
import json
import re
import shlex
from functools import partial

import pytest

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 1,
    "vocab_size": 4,
    "eos_token_id": 0,
}
TENSORS = {
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 500], "data_offsets": [0, 4000]},
    "lm_head.weight": {"dtype": "BF16", "shape": [4, 500], "data_offsets": [4000, 8000]},
}


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "models" / "tiny"
    directory.mkdir(parents=True)
    header = json.dumps(TENSORS).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\x3c" * 8000)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}}}')
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


@pytest.fixture
def check(xtuner):
    return partial(xtuner, "check-model")


def test_good_model(check, model):
    code, out, err = check(model)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "architecture       Qwen3ForCausalLM (qwen3)",
        "parameters         4.00 K",
        "dtype              BF16",
        "size on disk       8.0 KiB in 1 file",
        "layers             1",
        "hidden size        ?",
        "heads              ?",
        "vocabulary         4",
        "context length     ?",
        "tied embeddings    no",
        "tokenizer          BPE (tokenizer.json)",
        "chat template      yes (custom)",
        "generation config  no",
        "licence file       no",
        "",
        "OK: this model can be trained",
    ]


def test_problems_are_on_stdout_and_exit_3(check, model):
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer.json").unlink()
    code, out, err = check(model)
    lines = out.splitlines()
    assert (code, err) == (3, "")
    assert lines[-6].startswith("FAIL NO_CHAT_TEMPLATE: ") and lines[-5].startswith("  hint: ")
    assert lines[-4].startswith("FAIL NO_TOKENIZER: ") and lines[-1] == (
        "FAIL: this model cannot be trained (2 problems to fix)"
    )


def test_warnings_are_no_failure(check, model):
    (model / "x.incomplete").touch()
    code, out, _ = check(model)
    assert code == 0 and "WARN DOWNLOAD_UNFINISHED: " in out and out.endswith("\nOK: this model can be trained\n")


def test_last_line_of_a_cache_can_be_pasted(check, model, tmp_path):
    repo = tmp_path / "a cache;" / "models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    model.rename(repo / "snapshots" / "0123")
    code, out, _ = check(repo)
    assert code == 3 and "FAIL HUB_CACHE_REPO: " in out
    program, *arguments = shlex.split(out.splitlines()[-1])
    assert program == "xtuner" and arguments == ["check-model", str(repo / "snapshots" / "0123")]
    assert check(*arguments[1:])[0] == 0


def test_choices_are_indented_below_the_hint(check, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    code, out, _ = check(tmp_path)
    assert code == 3
    assert out.splitlines()[1:4] == ["  hint: use one of them:", f"    {tmp_path / 'a'}", f"    {tmp_path / 'b'}"]
    assert out.endswith("\nFAIL: this is not a model directory\n")


def test_json_has_stable_keys(check, model):
    code, out, err = check(model, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert list(report) == ["path", "ok", "findings", "summary", "suggestion", "candidates", "snapshots"]
    assert list(report["summary"]) == [
        *("architecture", "model_type", "num_parameters", "dtype", "size_bytes", "num_layers", "hidden_size"),
        *("num_heads", "num_kv_heads", "vocab_size", "context_length", "tied_embeddings", "tokenizer"),
        *("has_chat_template", "chat_template_family", "has_generation_config", "license_file", "weight_files"),
    ]
    code, out, _ = check(model.parent, "--json")
    report = json.loads(out)
    assert code == 3 and report["ok"] is False and report["summary"] is None
    assert report["suggestion"] == str(model) and report["candidates"] == [str(model)]
    assert [(list(finding), finding["code"]) for finding in report["findings"]] == [
        (["severity", "code", "message", "hint"], "PARENT_OF_MODELS")
    ]


def test_choices_of_a_cache_in_json(check, model, tmp_path):
    repo = tmp_path / "models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    model.rename(repo / "snapshots" / "0123")
    (repo / "snapshots" / "4567").mkdir()
    code, out, _ = check(repo, "--json")
    report = json.loads(out)
    assert code == 3 and report["suggestion"] is None and len(report["candidates"]) == 2
    first, second = report["snapshots"]
    assert list(first) == ["path", "repo_id", "revision", "is_main", "date", "is_complete"]
    assert (first["repo_id"], first["revision"], first["is_main"], first["is_complete"]) == (
        *("org/tiny", "0123", False, True),
    )
    assert second["revision"] == "4567" and not second["is_complete"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", first["date"])


def test_deep_reads_the_weights(check, model):
    code, out, err = check(model, "--deep")
    assert (code, err) == (0, "") and "INFO CHECKSUMS: no download left checksums" in out
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"\xc0\x7f")
    assert check(model).exit_code == 0
    code, out, _ = check(model, "--deep")
    assert code == 3 and "FAIL NOT_FINITE: " in out and "first in lm_head.weight at element 1,999" in out


def test_deep_tells_now_and_then_how_far_it_is(check, model, monkeypatch):
    monkeypatch.setattr("xtuner.cli.progress._SAY_EVERY_S", 0.0)
    assert "read 0.0 of 0.0 GiB of weights\n" in check(model, "--deep").stderr


def test_code_is_refused_listed_and_never_run(check, model, tmp_path):
    (model / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "modeling_x.Model"}}))
    program = f"open({str(tmp_path / 'executed')!r}, 'w')"
    (model / "modeling_x.py").write_text(program)
    code, out, _ = check(model)
    assert code == 3 and f"    {hashlib.sha256(program.encode()).hexdigest()}  modeling_x.py\n" in out
    code, out, _ = check(model, "--trust-remote-code")
    assert code == 0 and "WARN REMOTE_CODE: " in out and not (tmp_path / "executed").exists()


def test_help_has_an_example(check):
    code, out, _ = check("--help")
    assert code == 0 and "Example:\n" in out and "xtuner check-model models/" in out

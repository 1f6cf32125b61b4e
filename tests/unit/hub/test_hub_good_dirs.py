"""Model directories that can be trained: no FAIL, and the summary is right; some with something to look at."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hub_dirs import (
    CONFIG,
    TEMPLATE,
    TENSORS,
    WIDTH,
    Canary,
    edit_json,
    make_cached,
    make_model,
    make_tensors,
    plant_canaries,
    safetensors_bytes,
)
from safetensors.numpy import save_file

from xtuner.errors import ModelError
from xtuner.hub.findings import Severity
from xtuner.hub.model_dir import inspect_model, require_model
from xtuner.hub.weights import weight_map

CASES = {}
UNTIED = 2 * 8 * 4 + (16 + 8) * 2 + 3 * 6 * 4 + 2 * 2 + 3 * 4


def good(*codes, **expected):
    """A case: a function that makes a directory; `codes` are its findings, `expected` parts of its summary."""

    def add(make):
        CASES[make.__name__] = (make, codes, expected)
        return make

    return add


@good(num_parameters=UNTIED, dtype="BF16", tied_embeddings=False, context_length=64, num_kv_heads=1, num_layers=1)
def single_file(d):
    make_model(d)


@good(num_parameters=UNTIED, tokenizer="BPE (tokenizer.json)", has_chat_template=True, has_generation_config=True)
def sharded(d):
    make_model(d, shards=3)


@good(weight_files=tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)))
def cache_snapshot(d):
    return make_cached(d, shards=3) / "snapshots" / ("a" * 40)


@good(num_parameters=UNTIED)
def cache_snapshot_through_a_link(d):
    (d / "link").symlink_to(make_cached(d) / "snapshots" / ("a" * 40))
    return d / "link"


@good(num_parameters=UNTIED - 32, tied_embeddings=True)
def tied(d):
    make_model(d, tensors={k: v for k, v in TENSORS.items() if k != "lm_head.weight"}, tie_word_embeddings=True)


@good(num_parameters=UNTIED - 32, tied_embeddings=True)
def tied_by_default_of_the_architecture(d):
    make_model(d, tensors={k: v for k, v in TENSORS.items() if k != "lm_head.weight"})
    edit_json(d / "config.json", tie_word_embeddings=None)


@good(num_parameters=UNTIED - 32, tied_embeddings=True)
def tied_but_stored_twice(d):
    make_model(d, tie_word_embeddings=True)


@good()
def extra_files(d):
    make_model(d)
    for name in ("README.md", "LICENSE", "optimizer.pt", "training_args.bin", "model.gguf", ".gitattributes", "x.py"):
        (d / name).write_bytes(b"\x80\x04")
    (d / "original").mkdir()
    (d / "original" / "consolidated.00.pth").write_bytes(b"\x80\x04")
    (d / "adapter_model.safetensors").write_bytes(b"no weights of the model")


@good()
def odd_names(d):
    path = make_model(d / "a model\n[bold]\x1b[31m 模型 -of-")
    shutil.move(path / "model.safetensors", path / "weights é\n.safetensors")
    return path


@good(num_parameters=UNTIED)
def numbered_without_index(d):
    (make_model(d, shards=3) / "model.safetensors.index.json").unlink()


@good(hidden_size=WIDTH, num_layers=1, vocab_size=8, num_heads=2, architecture="Gemma3ForConditionalGeneration")
def nested_text_config(d):
    make_model(d, tensors={f"language_model.{k}": v for k, v in TENSORS.items()})
    text = {key: value for key, value in CONFIG.items() if key not in ("architectures", "model_type")}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    (d / "config.json").write_text(json.dumps(config))


@good(num_parameters=UNTIED + 4 * 2 * 32, dtype="BF16")
def mixture_of_experts(d):
    experts = {f"model.layers.0.mlp.experts.{n}.{p}.weight": ("BF16", [8, 4]) for n in range(4) for p in ("up", "down")}
    bias = {"model.layers.0.mlp.gate.e_score_correction_bias": ("F32", [0])}
    make_model(d, tensors={**TENSORS, **experts, **bias}, shards=4, num_experts=4)


@good(context_length=1024, num_layers=2, hidden_size=4, num_heads=2, num_kv_heads=None)
def gpt2_names(d):
    mask = ("U8", [1, 1, 4, 4])  # of old GPT models: an attention mask, not packed weights
    make_model(d, tensors={"wte.weight": ("F32", [8, 4]), "h.0.attn.bias": mask, "h.0.attn.masked_bias": ("U8", [])})
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 2, "n_embd": 4, "n_head": 2}
    (d / "config.json").write_text(json.dumps({**config, "n_positions": 1024, "vocab_size": 8}))


@good()
def template_in_its_own_file(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=None)
    (d / "chat_template.jinja").write_text(TEMPLATE)


@good()
def templates_with_default(d):
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=named)


@good(tokenizer="Unigram (tokenizer.json)")
def unigram(d):
    edit_json(make_model(d) / "tokenizer.json", model={"type": "Unigram", "vocab": [["x", 0.0]] * 7})


@good(vocab_size=16)
def padded_embedding(d):
    make_model(d, tensors={**TENSORS, "model.embed_tokens.weight": ("BF16", [16, 4])}, vocab_size=16)


@good()
def infinity_in_the_config(d):
    path = make_model(d) / "config.json"
    path.write_text(path.read_text().replace("{", '{"time_step_limit": [0.0, Infinity], ', 1))


@good()
def no_architectures(d):
    edit_json(make_model(d) / "config.json", architectures=None)


@good()
def nothing_but_what_is_needed(d):
    make_model(d)
    (d / "generation_config.json").unlink()


@good(num_parameters=32, dtype="F32")
def file_of_the_library(d):
    make_model(d)
    save_file({"model.embed_tokens.weight": np.ones((8, 4), "f4")}, d / "model.safetensors", metadata={"format": "pt"})


@good()
def inside_a_folder_named_like_a_cache(d):
    return make_model(d / "models--a--b")


@good()
def blobs_in_a_shared_store(d):
    repo = make_cached(d, shards=3)
    store = d / "blobs" / "aa"
    store.mkdir(parents=True)
    for number, blob in enumerate(list((repo / "blobs").iterdir())):
        blob.rename(store / f"{number}")
        blob.symlink_to(store / f"{number}")
    return repo / "snapshots" / ("a" * 40)


@good(num_layers=3)
def many_layers(d):
    make_model(d, tensors=make_tensors(3), shards=2, num_hidden_layers=3)


@good(num_layers=2)
def layer_that_predicts_further_tokens(d):
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    make_model(d, tensors=make_tensors(3), **config)


@good()
def dense_layers_before_the_experts(d):
    experts = {f"mlp.experts.{n}.{part}_proj.weight": ("BF16", [4, 4]) for n in range(2) for part in ("up", "down")}
    tensors = make_tensors(1) | {f"model.layers.{n}.{name}": e for n in (1, 2) for name, e in experts.items()}
    make_model(d, tensors=tensors, num_hidden_layers=3, model_type="deepseek_v3", first_k_dense_replace=1)


@good()
def hybrid_layers(d):
    tensors = make_tensors(2)
    tensors |= {"model.layers.2.mamba.in_proj.weight": ("BF16", [4, 4]), "model.layers.3.mlp.x.weight": ("BF16", [4])}
    make_model(d, tensors=tensors, num_hidden_layers=4, model_type="bamba", architectures=["BambaForCausalLM"])


@good()
def layers_that_share_their_weights(d):
    make_model(d, tensors=make_tensors(1), num_hidden_layers=12, model_type="shared", architectures=["XForCausalLM"])


@good()
def layers_of_a_vision_tower_too(d):
    tower = {f"vision_tower.encoder.layers.{n}.mlp.fc1.weight": ("BF16", [4, 4]) for n in range(7)}
    make_model(d, tensors={**TENSORS, **tower})


@good()
def names_without_a_prefix(d):
    make_model(d, tensors={name.removeprefix("model."): entry for name, entry in TENSORS.items()})


@good()
def biases_and_old_buffers(d):
    biases = {f"model.layers.0.self_attn.{name}_proj.bias": ("BF16", [2]) for name in "qkv"}
    make_model(d, tensors={**TENSORS, **biases, "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [2])})


@good()
def end_token_by_its_variable(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template="{{ messages[0].content + eos_token }}")


@good(chat_template_family="ChatML", license_file="LICENSE.txt")
def named_for_the_record(d):
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=template)
    (d / "LICENSE.txt").write_text("Apache-2.0")


@good("MIXED_DTYPES", dtype="BF16")
def router_in_full_precision(d):
    make_model(d, tensors={**TENSORS, "model.layers.0.mlp.router.weight": ("F32", [2, 2])})


@good(dtype="F64")
def double_precision(d):
    make_model(d, tensors={name: ("F64", shape) for name, (_, shape) in TENSORS.items()})


@good("UNUSED_CODE")
def code_of_the_tokenizer(d):
    edit_json(make_model(d) / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.Tokenizer", None]})


@good("END_TOKEN_NOT_IN_TEMPLATE")
def end_token_of_the_base_model(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template="{{ messages }}<|im_end|>")


@good("NO_END_TOKEN")
def no_end_token(d):
    edit_json(make_model(d) / "tokenizer_config.json", eos_token=None)
    edit_json(d / "config.json", eos_token_id=None)
    (d / "generation_config.json").unlink()


@good("LAYER_UNEXPECTED")
def more_layers_than_the_config_says(d):
    make_model(d, tensors=make_tensors(3), num_hidden_layers=2)


@good("LAYER_MISSING")
def fewer_layers_in_an_unknown_type(d):
    make_model(d, tensors=make_tensors(3), num_hidden_layers=4, model_type="new", architectures=["NewForCausalLM"])


@good("ZERO_FILLED")
def zeros_at_the_end(d):
    path = make_model(d) / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-200] + bytes(200))


@good("ZERO_FILLED")
def space_that_was_set_aside(d):
    big = {**TENSORS, "lm_head.weight": ("BF16", [8, 2**18])}
    path = make_model(d, tensors=big) / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 2**21)
    os.truncate(path, size)


@good()
def zeros_in_biases_and_norms(d):
    biases = {f"model.layers.0.self_attn.{name}_proj.bias": ("BF16", [2]) for name in "qkv"}
    path = make_model(d, tensors={**TENSORS, **biases}) / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-12] + bytes(12))


@good()
def padding_rows_of_the_embedding(d):
    path = make_model(d) / "model.safetensors"  # ends with the head
    path.write_bytes(path.read_bytes()[:-16] + bytes(16))


@good("DOWNLOAD_UNFINISHED")
def unfinished_of_modelscope(d):
    (make_model(d) / "._____temp").mkdir()
    (d / "._____temp" / "model-2.safetensors").write_bytes(b"")


@good("DOWNLOAD_UNFINISHED")
def unfinished_beside(d):
    (make_model(d) / "model-2.safetensors.incomplete").write_bytes(b"")


@good("DOWNLOAD_UNFINISHED")
def unfinished_in_the_cache(d):
    repo = make_cached(d)
    (repo / "blobs" / "0123.incomplete").write_bytes(b"")
    return repo / "snapshots" / ("a" * 40)


@good("DOWNLOAD_UNFINISHED")
def unfinished_local_dir(d):
    place = make_model(d) / ".cache" / "huggingface" / "download"
    place.mkdir(parents=True)
    (place / "x.incomplete").write_bytes(b"")
    (place / "config.json.lock").write_bytes(b"")


@good("NOT_A_DECODER")
def encoder(d):
    make_model(d, architectures=["BertForMaskedLM"])


@good("NOT_A_DECODER")
def encoder_decoder(d):
    make_model(d, architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)


@good("SPECIAL_ID_OUT_OF_RANGE", "SPECIAL_ID_OUT_OF_RANGE")
def special_ids_out_of_range(d):
    make_model(d, pad_token_id=-1)
    (d / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')


@good("NOT_JSON")
def broken_generation_config(d):
    (make_model(d) / "generation_config.json").write_text("{")


@good("VOCAB_MISMATCH")
def vocab_mismatch(d):
    make_model(d, vocab_size=9)


@good("SPARE_TOKENS")
def image_token_of_a_text_model(d):
    added = [{"id": 8, "content": "<image_soft_token>", "special": True}]
    edit_json(make_model(d) / "tokenizer.json", added_tokens=added)


@good("NOT_IN_INDEX", "NOT_IN_INDEX")
def weights_not_in_the_index(d):
    (make_model(d, shards=3) / "consolidated.safetensors").write_bytes(safetensors_bytes())
    shard = d / "model-00003-of-00003.safetensors"
    part = dict(list(TENSORS.items())[2::3])
    shard.write_bytes(safetensors_bytes({**part, "rotary.inv_freq": ("F32", [2])}))


@good("DANGLING_LINK")
def dangling_readme(d):
    (make_model(d) / "README.md").symlink_to("gone")


@pytest.mark.parametrize("name", list(CASES))
def test_good_directory(name, tmp_path):
    make, codes, expected = CASES[name]
    (tmp_path / "d").mkdir()
    path = make(tmp_path / "d") or tmp_path / "d"
    plant_canaries(tmp_path / "d", tmp_path / "executed")
    report = inspect_model(path)
    assert report.ok, report.findings
    assert tuple(finding.code for finding in report.findings) == codes
    assert all(finding.hint for finding in report.findings if finding.severity is Severity.WARN)
    assert report.summary is not None
    assert {key: getattr(report.summary, key) for key in expected} == expected
    assert require_model(path).ok
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
    located = weight_map(path)
    assert located and all(file.is_file() for file in located.values())
    assert not (tmp_path / "executed").exists()


def test_enough_cases():
    assert len(CASES) >= 40


def test_the_canaries_would_sing(tmp_path):
    """The control of the tests above: who does run what lies in the directory is caught."""
    plant_canaries(tmp_path, tmp_path / "executed")
    exec((tmp_path / "modeling_canary.py").read_text())
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    pickle.loads((tmp_path / "training_args.bin").read_bytes()).close()
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("links", [False, True])
def test_work_dir_of_one_export_is_seen_through_its_links(tmp_path, links):
    make_model(tmp_path / "hf-100")
    if links:
        (tmp_path / "hf-latest").symlink_to("hf-100")
    assert inspect_model(tmp_path).suggestion == tmp_path / "hf-100"


def test_needs_of_the_caller(tmp_path):
    make_model(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert [finding.code for finding in inspect_model(tmp_path).findings] == ["NO_CHAT_TEMPLATE", "NO_TOKENIZER"]
    assert not inspect_model(tmp_path, needs_chat_template=False).ok
    assert inspect_model(tmp_path, needs_chat_template=False, needs_tokenizer=False).ok
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert inspect_model(tmp_path, needs_chat_template=False, needs_tokenizer=False).ok
    with pytest.raises(ModelError, match=r"and 1 more: xtuner check-model .* lists all\)"):
        require_model(tmp_path)


def test_worst_first_and_many_broken_shards_are_one_screen(tmp_path):
    make_model(tmp_path, shards=4, tensors={f"model.{n}.weight": ("F32", [2]) for n in range(40)}, pad_token_id=-5)
    make_model(tmp_path / "b", shards=40, tensors={f"model.{n}.weight": ("F32", [2]) for n in range(40)})
    (tmp_path / "x.incomplete").write_bytes(b"")
    (tmp_path / "spare.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").unlink()
    severities = [finding.severity for finding in inspect_model(tmp_path).findings]
    assert severities == [Severity.FAIL, Severity.WARN, Severity.INFO]
    for path in (tmp_path / "b").glob("*.safetensors"):
        os.truncate(path, 100)
    findings = inspect_model(tmp_path / "b").findings
    assert len(findings) == 11 and findings[-1].message.startswith("30 more weight files are broken: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_name_owner_and_mode(tmp_path):
    path = make_model(tmp_path) / "model.safetensors"
    path.chmod(0)
    (finding,) = inspect_model(tmp_path).findings
    assert finding.code == "UNREADABLE" and "mode 0000" in finding.message
    tmp_path.chmod(0)
    try:
        (finding,) = inspect_model(tmp_path).findings
    finally:
        tmp_path.chmod(0o700)
    assert finding.code == "UNREADABLE"


def test_refusal_of_the_system_is_a_finding(tmp_path, monkeypatch):
    make_model(tmp_path)
    original = os.open

    def refuse(path, *arguments):
        if str(path).endswith("model.safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    (finding,) = inspect_model(tmp_path).findings
    assert finding.code == "UNREADABLE" and "owner uid" in finding.message and "Permission denied" in finding.message


def test_no_code_is_run(tmp_path):
    model, canary = make_model(tmp_path / "m", auto_map={"AutoConfig": "canary.Config"}), tmp_path / "executed"
    program = f"open({str(canary)!r}, 'w')\n"
    for name in ("canary.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (model / name).write_text(program)
    for name in ("pytorch_model.bin", "model.pt", "x.pkl"):
        (model / name).write_bytes(pickle.dumps(Canary(canary)))
    edit_json(model / "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}<|end|>")
    assert [finding.code for finding in inspect_model(model).findings] == ["REMOTE_CODE"]
    (model / "model.safetensors").unlink()
    assert [finding.code for finding in inspect_model(model).findings] == ["REMOTE_CODE", "PICKLE_ONLY"]
    (model / "model.safetensors").write_bytes(pickle.dumps(Canary(canary)))
    assert not inspect_model(model).ok
    assert not canary.exists()

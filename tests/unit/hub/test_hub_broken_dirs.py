"""Broken model directories: each gets its own reason code, a hint, and the verdict FAIL."""

import hashlib
import os
import re
import socket

import hub_dirs
import pytest
from hub_dirs import (
    LAYER,
    TENSORS,
    edit_json,
    header_bytes,
    make_cached,
    make_model,
    make_tensors,
    plant_canaries,
    safetensors_bytes,
)

from xtuner.errors import ModelError
from xtuner.hub.findings import REASON_CODES, Severity
from xtuner.hub.model_dir import inspect_model, require_model

CASES = {}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NOT_FAILING = {
    *("DOWNLOAD_UNFINISHED", "NOT_A_DECODER", "SPECIAL_ID_OUT_OF_RANGE", "VOCAB_MISMATCH", "NOT_IN_INDEX"),
    *("SPARE_TOKENS", "UNUSED_CODE", "NO_END_TOKEN", "END_TOKEN_NOT_IN_TEMPLATE", "MIXED_DTYPES", "ZERO_FILLED"),
    *("LAYER_UNEXPECTED", "ZERO_MATRIX", "CHANGED_FILE", "CHECKSUMS"),
}
SHARD = "model-00002-of-00003.safetensors"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123abcd\nsize 4976698672\n"


def broken(code, words="", hint=""):
    """A case: a function that breaks a directory and returns the path to judge (None: the directory)."""

    def add(make):
        CASES[f"{code}-{make.__name__}"] = (make, code, words, hint)
        return make

    return add


@broken("PATH_MISSING", words="no model directory", hint="config.json")
def nothing_there(d):
    return d / "nowhere" / "at" / "all"


@broken("PATH_MISSING", hint="model'?$|use .*/model$")
def blanks_around(d):
    return f" {make_model(d / 'model')} "


@broken("PATH_MISSING", hint="did you mean .*/Qwen3-8B")
def misspelt(d):
    make_model(d / "Qwen3-8B")
    return d / "Qwen3-8b"


@broken("PATH_MISSING", hint="use .*home/model")
def unexpanded_home(d):
    make_model(d / "home" / "model")
    return "~/model"


@broken("PATH_MISSING", words="empty")
def empty_path(d):
    return ""


@broken("PATH_MISSING")
def nul_in_path(d):
    return "a\0b"


@broken("PATH_MISSING")
def long_path(d):
    return d / ("x" * 5000)


@broken("HUB_ID", hint="xtuner download Qwen/Qwen3-8B --local-dir Qwen3-8B")
def hub_id(d):
    return "Qwen/Qwen3-8B"


@broken("HUB_ID", hint="xtuner download Qwen/Qwen3-8B --local-dir Qwen3-8B")
def hub_address(d):
    return "https://huggingface.co/Qwen/Qwen3-8B/tree/main"


@broken("NOT_A_DIRECTORY", hint="use .*/model$")
def file_in_a_model(d):
    return make_model(d / "model") / WEIGHTS


@broken("NOT_A_DIRECTORY", hint="original model")
def gguf_file(d):
    (d / "model.gguf").write_bytes(b"GGUF")
    return d / "model.gguf"


@broken("NOT_A_DIRECTORY")
def pipe_as_model(d):
    os.mkfifo(d / "pipe")
    return d / "pipe"


@broken("DANGLING_LINK", words="link to gone")
def model_is_a_dangling_link(d):
    (d / "link").symlink_to("gone")
    return d / "link"


@broken("HUB_CACHE_REPO", words="Qwen/Qwen3-8B", hint="snapshots/aaaa")
def cache_repo(d):
    return make_cached(d)


@broken(
    "HUB_CACHE_REPO", hint=r"(?s)snapshots/b{40}\nit is the main one of 2; the others:\n.*/a{40} \(Qwen/Qwen3-8B, \d{4}"
)
def cache_repo_main_decides(d):
    return make_cached(d, revisions=("a" * 40, "b" * 40), main=1)


@broken("HUB_CACHE_REPO", hint=r"(?s)one of the 2 snapshots.*complete.*incomplete")
def cache_repo_without_main(d):
    repo = make_cached(d, revisions=("a" * 40, "b" * 40), main=None)
    (repo / "snapshots" / ("a" * 40) / WEIGHTS).unlink()
    return repo


@broken("HUB_CACHE_REPO", hint="xtuner download Qwen/Qwen3-8B")
def cache_repo_without_snapshots(d):
    (d / "models--Qwen--Qwen3-8B" / "blobs").mkdir(parents=True)
    return d / "models--Qwen--Qwen3-8B"


@broken("HUB_CACHE_REPO", hint="incomplete")
def cache_repo_incomplete(d):
    repo = make_cached(d, shards=3)
    (repo / "blobs" / f"aaaa{SHARD}").unlink()
    return repo


@broken("HUB_CACHE_REPO", hint="snapshots/aaaa")
def cache_blobs(d):
    return make_cached(d) / "blobs"


@broken("HUB_CACHE_REPO", words="Qwen/Qwen3-8B", hint="snapshots/aaaa")
def cache_repo_through_a_link(d):
    (d / "short").symlink_to(make_cached(d))
    return d / "short"


@broken("HUB_CACHE_SNAPSHOTS", hint="snapshots/aaaa")
def cache_snapshots(d):
    return make_cached(d) / "snapshots"


@broken("HUB_CACHE_ROOT", words="one model", hint="snapshots/aaaa")
def cache_root_of_one(d):
    make_cached(d)
    return d


@broken("HUB_CACHE_ROOT", words="2 models", hint="(?s)Qwen/Qwen3-8B.*org/other|org/other.*Qwen/Qwen3-8B")
def cache_root_of_two(d):
    make_cached(d / "hub")
    make_cached(d / "hub", repo="models--org--other")
    return d  # as ~/.cache/huggingface


@broken("PARENT_OF_MODELS", hint="use .*/inner$")
def parent_of_one(d):
    make_model(d / "inner")
    (d / "logs").mkdir()


@broken("PARENT_OF_MODELS", hint="(?s)one.*two")
def parent_of_two(d):
    make_model(d / "one")
    make_model(d / "two")


@broken("NO_CONFIG")
def empty_directory(d):
    pass


@broken("NO_CONFIG")
def weights_without_config(d):
    (make_model(d) / "config.json").unlink()


@broken("NOT_JSON")
def config_cut_off(d):
    (make_model(d) / "config.json").write_text('{"model_type": "qwen3", ')


@broken("NOT_JSON", words="list")
def config_is_a_list(d):
    (make_model(d) / "config.json").write_text("[]")


@broken("NOT_JSON", words="nested too deep")
def config_nested(d):
    (make_model(d) / "config.json").write_text('{"a":' * 100_000)


@broken("NOT_JSON", words="BOM")
def config_with_byte_order_mark(d):
    path = make_model(d) / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@broken("ERROR_PAGE", words="web page")
def config_is_a_page(d):
    (make_model(d) / "config.json").write_text("<!DOCTYPE html><html>")


@broken("DUPLICATE_KEY", words="vocab_size")
def config_with_a_key_twice(d):
    (make_model(d) / "config.json").write_text('{"model_type": "a", "vocab_size": 8, "vocab_size": 9}')


@broken("JSON_TOO_LARGE")
def config_too_large(d):
    (make_model(d) / "config.json").write_bytes(b" " * (10 * 2**20 + 1))


@broken("NO_MODEL_TYPE")
def config_of_something_else(d):
    (make_model(d) / "config.json").write_text('{"error": "Repository not found"}')


@broken("NOT_A_FILE", words="named pipe")
def config_is_a_pipe(d):
    (make_model(d) / "config.json").unlink()
    os.mkfifo(d / "config.json")


@broken("NOT_A_FILE", words="a directory")
def weights_are_a_directory(d):
    (make_model(d) / WEIGHTS).unlink()
    (d / WEIGHTS).mkdir()


@broken("NOT_A_FILE", words="socket")
def index_is_a_socket(d, monkeypatch):
    make_model(d, shards=3)
    (d / INDEX).unlink()
    monkeypatch.chdir(d)  # socket addresses are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(INDEX)


@broken("NOT_A_FILE", words="device")
def template_is_a_device(d):
    (make_model(d) / "chat_template.jinja").symlink_to("/dev/zero")


@broken("REMOTE_CODE", words="modeling_canary.py")
def remote_code(d):
    make_model(d, auto_map={"AutoModelForCausalLM": "modeling_canary.Model"})
    (d / "modeling_canary.py").write_text(f"open({str(d / 'executed')!r}, 'w')")


@broken("REMOTE_CODE")
def remote_code_nested(d):
    make_model(d, vision_config={"auto_map": {"AutoConfig": "evil.Config"}})


@broken("REMOTE_CODE", words="evil/kernel")
def hub_kernel(d):
    make_model(d, text_config={**hub_dirs.CONFIG, "_attn_implementation_internal": "evil/kernel"})


@broken("REMOTE_CODE", hint=rf"(?s)by SHA-256:.*\n{hashlib.sha256(b'x = 1').hexdigest()}  modeling_own\.py\n")
def remote_code_by_its_hash(d):
    make_model(d, auto_map={"AutoModel": "modeling_own.Model"})
    (d / "modeling_own.py").write_text("x = 1")


@broken("REMOTE_CODE", words="other--repo|auto_map")
def remote_code_of_another_repo(d):
    make_model(d, auto_map={"AutoConfig": "org/other--configuration.Config"})


@broken("LAYER_MISSING", words="says 4 layers, but layer 2 of the weights")
def layer_missing(d):
    tensors = {name: entry for name, entry in make_tensors(4).items() if ".layers.2." not in name}
    make_model(d, tensors=tensors, num_hidden_layers=4)


@broken("LAYER_MISSING", words="layers 2, 3 of the weights")
def last_layers_missing(d):
    make_model(d, tensors=make_tensors(2), num_hidden_layers=4)


@broken("TENSORS_LACKING", words="1 tensors .* 1.mlp.down_proj.weight")
def tensor_missing_in_a_layer(d):
    tensors = make_tensors(3)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    make_model(d, tensors=tensors, num_hidden_layers=3)


@broken("TENSORS_LACKING", words="0.self_attn.q_proj.weight")
def projections_of_another_name(d):
    fused = {name.replace("q_proj", "qkv_proj"): entry for name, entry in TENSORS.items()}
    make_model(d, tensors=fused)


@broken("TENSORS_LACKING", words="2 tensors .* 0.block_sparse_moe.experts.1.w2.weight, 1.block_sparse_moe.gate.weight")
def tensors_missing_in_a_mixture(d):
    tensors = {}
    for number in range(3):
        attention = {name: entry for name, entry in LAYER.items() if "mlp" not in name and "_norm." not in name}
        experts = {f"block_sparse_moe.experts.{e}.w{w}.weight": ("BF16", [4, 4]) for e in range(2) for w in (1, 2, 3)}
        layer = {**attention, **experts, "block_sparse_moe.gate.weight": ("BF16", [2, 4])}
        tensors |= {f"model.layers.{number}.{name}": entry for name, entry in layer.items()}
    for name in ("0.block_sparse_moe.experts.1.w2.weight", "1.block_sparse_moe.gate.weight"):
        del tensors[f"model.layers.{name}"]
    make_model(d, tensors=tensors, num_hidden_layers=3, model_type="mixtral", architectures=["MixtralForCausalLM"])


@broken("TENSORS_LACKING", words=r"the final norm \(norm.weight\)")
def no_final_norm(d):
    make_model(d, tensors={name: entry for name, entry in TENSORS.items() if name != "model.norm.weight"})


@broken("TENSORS_LACKING", words="the token embedding")
def no_embedding(d):
    make_model(d, tensors={name: entry for name, entry in TENSORS.items() if "embed" not in name})


@broken("TENSORS_LACKING", words="the output projection")
def no_head_though_not_tied(d):
    make_model(d, tensors={name: entry for name, entry in TENSORS.items() if "lm_head" not in name})


@broken("QUANTIZED", words="gptq")
def quantized_config(d):
    make_model(d, quantization_config={"quant_method": "gptq", "bits": 4})


@broken("QUANTIZED", words="F8_E4M3")
def quantized_fp8(d):
    make_model(d, tensors={**TENSORS, "model.layers.0.q.weight": ("F8_E4M3", [4, 4])})


@broken("QUANTIZED", words="qweight")
def quantized_packed(d):
    make_model(d, tensors={**TENSORS, "model.layers.0.q.qweight": ("I32", [4, 4])})


@broken("ADAPTER_ONLY", words="Qwen/Qwen3-8B", hint="Qwen/Qwen3-8B")
def adapter(d):
    (d / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')
    (d / "adapter_model.safetensors").write_bytes(safetensors_bytes())


@broken("ADAPTER_ONLY")
def adapter_with_config(d):
    (make_model(d) / WEIGHTS).rename(d / "adapter_model.safetensors")
    (d / "adapter_config.json").write_text("not json")


@broken("GGUF_ONLY")
def gguf_only(d):
    (d / "qwen3-8b-q4_k_m.gguf").write_bytes(b"GGUF")


@broken("GGUF_ONLY")
def gguf_with_config(d):
    (make_model(d) / WEIGHTS).rename(d / "model.gguf")


@broken("PICKLE_ONLY", hint="save_pretrained")
def pickle_only(d):
    (make_model(d) / WEIGHTS).unlink()
    (d / "pytorch_model.bin").write_bytes(b"\x80\x04")


@broken("NO_WEIGHTS")
def no_weights(d):
    (make_model(d) / WEIGHTS).unlink()
    (d / "training_args.bin").write_bytes(b"\x80\x04")


@broken("NO_WEIGHTS")
def only_a_hidden_file(d):
    (make_model(d) / WEIGHTS).rename(d / "._model.safetensors")


@broken("INDEX_BROKEN")
def index_without_map(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {}}')


@broken("NOT_JSON")
def index_cut_off(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {"a": ')


@broken("DUPLICATE_KEY")
def index_names_a_tensor_twice(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')


@broken("INDEX_UNSAFE_NAME", words="../other")
def index_leads_up(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {"a": "../other.safetensors"}}')


@broken("INDEX_UNSAFE_NAME")
def index_is_absolute(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {"a": "/etc/passwd"}}')


@broken("INDEX_UNSAFE_NAME")
def index_names_nothing(d):
    (make_model(d, shards=3) / INDEX).write_text('{"weight_map": {"a": ""}}')


@broken("SHARD_MISSING", words="1 of 3 .*" + SHARD)
def shard_missing(d):
    (make_model(d, shards=3) / SHARD).unlink()


@broken("SHARD_MISSING", words="numbers")
def shard_missing_without_index(d):
    (make_model(d, shards=3) / INDEX).unlink()
    (d / SHARD).unlink()


@broken("DANGLING_LINK", words="blob")
def blob_pruned(d):
    repo = make_cached(d, shards=3)
    (repo / "blobs" / f"aaaa{SHARD}").unlink()
    return repo / "snapshots" / ("a" * 40)


@broken("DANGLING_LINK")
def config_blob_pruned(d):
    repo = make_cached(d)
    (repo / "blobs" / "aaaaconfig.json").unlink()
    return repo / "snapshots" / ("a" * 40)


@broken("DANGLING_LINK")
def link_loop(d):
    (make_model(d) / WEIGHTS).unlink()
    (d / WEIGHTS).symlink_to(WEIGHTS)


@broken("SHARD_TRUNCATED", words="short by 7 bytes: it has .* of .* bytes")
def truncated(d):
    path = make_model(d) / WEIGHTS
    os.truncate(path, path.stat().st_size - 7)


@broken("SHARD_TRUNCATED", words="in its header: short by at least")
def truncated_header(d):
    os.truncate(make_model(d) / WEIGHTS, 40)


@broken("SHARD_TRUNCATED", words="0 bytes")
def empty_shard(d):
    os.truncate(make_model(d) / WEIGHTS, 0)


@broken("SHARD_TOO_LONG", words="5 bytes too long")
def grown(d):
    with (make_model(d) / WEIGHTS).open("ab") as file:
        file.write(b"12345")


@broken("LFS_POINTER", words="4,976,698,672 bytes", hint="git lfs pull")
def lfs_pointer(d):
    (make_model(d, shards=3) / SHARD).write_text(LFS)


@broken("LFS_POINTER", hint="git lfs pull")
def lfs_pointer_as_tokenizer(d):
    (make_model(d) / "tokenizer.json").write_text(LFS)


@broken("ERROR_PAGE", words="web page: '<!DOCTYPE")
def page_as_weights(d):
    (make_model(d) / WEIGHTS).write_text("<!DOCTYPE html>\n<title>Sign in</title>")


@broken("ERROR_PAGE", words="Invalid credentials")
def json_error_as_weights(d):
    (make_model(d) / WEIGHTS).write_text('{"error": "Invalid credentials in Authorization header"}')


@broken("ERROR_PAGE", words="Entry not found")
def text_as_weights(d):
    (make_model(d) / WEIGHTS).write_text("Entry not found")


@broken("BAD_HEADER")
def zeros_as_weights(d):
    (make_model(d) / WEIGHTS).write_bytes(bytes(4096))


@broken("BAD_HEADER", words="twice")
def header_names_a_tensor_twice(d):
    entry = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    (make_model(d) / WEIGHTS).write_bytes(header_bytes(b'{"a":' + entry + b',"a":' + entry + b"}"))


@broken("BAD_HEADER", words="gap or an overlap")
def header_with_a_gap(d):
    header = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}
    (make_model(d) / WEIGHTS).write_bytes(header_bytes(header) + bytes(3))


@broken("BAD_HEADER", words="cannot take 2 bytes")
def header_with_a_wrong_shape(d):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2]}}
    (make_model(d) / WEIGHTS).write_bytes(header_bytes(header) + bytes(2))


@broken("TENSOR_MISSING", words="1 tensors .*model.extra")
def tensor_not_in_its_shard(d):
    make_model(d, shards=3)
    path = d / INDEX
    text = path.read_text().replace('"weight_map": {', f'"weight_map": {{"model.extra": "{SHARD}", ')
    path.write_text(text)


@broken("TENSOR_TWICE")
def two_copies_without_index(d):
    (make_model(d) / WEIGHTS).rename(d / "a.safetensors")
    (d / "b.safetensors").write_bytes(safetensors_bytes())


@broken("NO_TOKENIZER", hint="tokenizer")
def no_tokenizer(d):
    (make_model(d) / "tokenizer.json").unlink()


@broken("TOKENIZER_NOT_FAST", words="tokenizer.model")
def slow_tokenizer(d):
    (make_model(d) / "tokenizer.json").rename(d / "tokenizer.model")


@broken("TOKENIZER_BROKEN")
def tokenizer_of_nothing(d):
    (make_model(d) / "tokenizer.json").write_text("{}")


@broken("TOKENIZER_TOO_LARGE", words="up to 8, .* 8 rows")
def tokenizer_vocab_too_large(d):
    edit_json(make_model(d) / "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0, "z": 8}})


@broken("TOKENIZER_TOO_LARGE")
def unigram_vocab_too_large(d):
    edit_json(make_model(d) / "tokenizer.json", model={"type": "Unigram", "vocab": [["x", 0.0]] * 9})


@broken("TOKENIZER_TOO_LARGE")
def added_token_of_the_template_too_large(d):
    added = [{"id": 9, "content": "<|end|>", "special": True}]
    edit_json(make_model(d) / "tokenizer.json", added_tokens=added)


@broken("NO_CHAT_TEMPLATE", hint="chat_template.jinja")
def no_template(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=None)


@broken("NO_CHAT_TEMPLATE")
def blank_template(d):
    (make_model(d) / "chat_template.jinja").write_text(" \n")


@broken("NO_CHAT_TEMPLATE", words="none is called default: additional_chat_templates/rag.jinja")
def templates_only_in_their_folder(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=None)
    (d / "additional_chat_templates").mkdir()
    (d / "additional_chat_templates" / "rag.jinja").write_text("x")


@broken("NO_CHAT_TEMPLATE", words="none is called default: rag")
def templates_without_default(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])


@broken("NO_CHAT_TEMPLATE", words="chat_template.json", hint="chat_template.jinja")
def template_of_a_processor(d):
    edit_json(make_model(d) / "tokenizer_config.json", chat_template=None)
    (d / "chat_template.json").write_text('{"chat_template": "x"}')


@pytest.fixture
def case(request, tmp_path, monkeypatch):
    make, code, words, hint = CASES[request.param]
    directory = tmp_path / "d"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory / "home"))
    monkeypatch.chdir(tmp_path)
    path = make(directory, monkeypatch) if make.__code__.co_argcount == 2 else make(directory)
    plant_canaries(directory, tmp_path / "executed")
    yield directory if path is None else path, code, words, hint
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("case", list(CASES), indirect=True)
def test_broken_directory_has_its_reason(case):
    path, code, words, hint = case
    report = inspect_model(path)
    assert not report.ok
    fails = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    assert [finding.code for finding in fails] == [code], report.findings
    finding = report.findings[0]
    assert re.search(words, finding.message), finding.message
    assert finding.hint and re.search(hint, finding.hint), finding.hint
    assert "\n" not in finding.message
    with pytest.raises(ModelError) as raised:
        require_model(path)
    assert raised.value.message == finding.message and raised.value.hint == finding.hint


def test_enough_cases_and_all_failing_codes_among_them():
    codes = {code for _, code, _, _ in CASES.values()}
    elsewhere = {"NOT_FINITE", "CHECKSUM_MISMATCH", "UNREADABLE"}  # --deep, and files of others
    assert len(CASES) >= 60
    assert set(REASON_CODES) - codes == NOT_FAILING | elsewhere

"""Exported directories: same names, dtypes and bytes as the source, same logits as the model in memory."""

import json
import shutil
import stat

import engine_parts
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.hub.model_dir import inspect_model
from xtuner.v1.config import FSDPConfig
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.export import export_model
from xtuner.v1.model.initialize import initialize_buffers, initialize_weights
from xtuner.v1.model.shard import shard_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", list(tiny_models.ARCHITECTURES))
def test_untrained_export_is_the_source(mesh, tiny_model, tmp_path, architecture, dtype):
    source = tiny_model(architecture, dtype=dtype)
    model = engine_parts.sharded_model(mesh, source)
    out = tmp_path / "hf"
    export_model(model, out, source=source, tokenizer_dir=source, is_writer=True, max_shard_bytes=100_000)
    ours, theirs = engine_parts.stored_tensors(out), engine_parts.stored_tensors(source)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert (out / "model.safetensors.index.json").is_file() and inspect_model(out).ok


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3-untied", "llama", "llama-tied", "qwen3_moe"])
def test_trained_export_has_the_logits_of_the_model_in_memory(mesh, tiny_model, tmp_path, architecture):
    from xtuner.v1.datasets.batches import Batches

    source = tiny_model(architecture)
    engine = engine_parts.engine(mesh, source)
    data = engine_parts.prepared([[(30, 20), (18, 9)]])
    batches = Batches(data, sequences_per_step=1, seed=0)
    for step in range(1, 4):
        engine.train_step(batches.fetch(step), lr=1e-3)
    out = tmp_path / "hf"
    export_model(engine.model, out, source=source, tokenizer_dir=source, is_writer=True)
    reloaded, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert reloaded.config.tie_word_embeddings == read_model_config(source).tie_word_embeddings
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        ours = engine.model(input_ids=ids, position_ids=torch.arange(57)[None], use_cache=False).logits
        theirs = reloaded(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny_models.CHATML
    mode = stat.S_IMODE((out / "model.safetensors").stat().st_mode)
    assert mode == stat.S_IMODE((out / "config.json").stat().st_mode)


def test_a_tied_head_stored_twice_stays_stored_twice(mesh, tiny_model, tmp_path):
    source = shutil.copytree(tiny_model("qwen3"), tmp_path / "source")
    tensors = engine_parts.stored_tensors(source)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    from safetensors.torch import save_file

    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    export_model(
        engine_parts.sharded_model(mesh, source), tmp_path / "hf", source=source, tokenizer_dir=source, is_writer=True
    )
    assert engine_parts.stored_tensors(tmp_path / "hf").keys() == tensors.keys()


def test_random_weights_start_at_ln_vocabulary_and_export_loads(mesh, tiny_model, tmp_path):
    source = tiny_model("llama")
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build_meta_model(read_model_config(tmp_path / "config.json"))
    shard_model(model, mesh, FSDPConfig())
    initialize_weights(model, seed=1)
    initialize_buffers(model)
    ids = torch.randint(512, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=torch.arange(200)[None], use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    assert loss == pytest.approx(torch.tensor(512.0).log().item(), abs=0.2)
    export_model(model, tmp_path / "hf", source=None, tokenizer_dir=source, is_writer=True)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]

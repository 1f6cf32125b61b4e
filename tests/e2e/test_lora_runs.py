"""LoRA through torchrun: the same numbers at every number of ranks, and what a run leaves behind."""

import json

import engine_parts
import pytest
import ranks
import torch
from commands import ENTRY, run
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import FSDPConfig, LoraConfig
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.export import export_model
from xtuner.v1.model.export_lora import export_adapter
from xtuner.v1.model.initialize import initialize_buffers
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.lora import add_adapters, initialize_adapters
from xtuner.v1.model.shard import shard_model


def _train(work_dir, num_ranks, model_dir, chats, *flags):
    done = run(
        *("torchrun", "--nproc-per-node", num_ranks, ENTRY, "--load-from", model_dir, "--dataset", chats),
        *("--work-dir", work_dir, "--pack-max-length", 512, "--global-batch-size", 4, "--lr", "1e-2"),
        *flags,
    )
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(work_dir)
    losses = [record["reduced_llm_loss"] for record in read_metrics(run_dir.rank_metrics(0))]
    return run_dir, losses


@pytest.mark.parametrize("architecture", ["llama-tied", "qwen3_moe"])
def test_loss_curves_do_not_depend_on_ranks(tiny_model, chats, tmp_path, architecture):
    """Rank 5 divides evenly on no number of ranks but one."""
    flags = ["--total-step", 12, "--lora.rank", 5]
    source = tiny_model(architecture)
    one_run, one = _train(tmp_path / "one", 1, source, chats, *flags)
    two_run, two = _train(tmp_path / "two", 2, source, chats, *flags)
    assert len(one) == 12 and one[-1] < one[0] - 0.3
    assert two == pytest.approx(one, abs=1e-4)
    adapters = [load_file(run_dir.latest_adapter / "adapter_model.safetensors") for run_dir in (one_run, two_run)]
    assert adapters[0].keys() == adapters[1].keys()
    log = two_run.rank_log(0).read_text()
    assert "LoRA: rank 5, alpha 10, " in log and "parameters are trained (" in log


def test_a_run_leaves_a_model_and_an_adapter(tiny_model, chats, tmp_path):
    source = tiny_model("qwen3")
    flags = ["--total-step", 3, "--lora.rank", 4, "--lora.alpha", 16, "--lora.dropout", "0.1"]
    run_dir, _ = _train(tmp_path, 2, source, chats, *flags, "--lora.target-modules", "q_proj,v_proj")
    assert {path.name for path in run_dir.path.glob("*-*")} >= {"hf-3", "hf-latest", "adapter-3", "adapter-latest"}
    adapter_config = json.loads((run_dir.latest_adapter / "adapter_config.json").read_text())
    assert (adapter_config["r"], adapter_config["lora_alpha"], adapter_config["lora_dropout"]) == (4, 16, 0.1)
    assert adapter_config["target_modules"] == ["q_proj", "v_proj"]
    ids = AutoTokenizer.from_pretrained(run_dir.latest_export)("What is 3 plus 4?", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(source)
    merged = AutoModelForCausalLM.from_pretrained(run_dir.latest_export)
    with torch.no_grad():
        before, after = base(ids).logits, merged(ids).logits
        adapted = PeftModel.from_pretrained(base, run_dir.latest_adapter)(ids).logits
    torch.testing.assert_close(adapted, after, rtol=1e-5, atol=1e-5)
    assert (after - before).abs().max() > 0.01


def test_without_merging_the_adapter_is_all(tiny_model, chats, tmp_path):
    done = run(
        *("xtuner", "sft", "--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", tmp_path),
        *("--total-step", 1, "--pack-max-length", 512, "--lora.rank", 2, "--lora.no-merge"),
    )
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(tmp_path)
    assert done.stdout.strip() == str(run_dir.latest_adapter)
    assert (run_dir.latest_adapter / "adapter_model.safetensors").is_file()
    assert not list(run_dir.path.glob("hf-*"))


def test_random_weights_have_nothing_to_adapt(tiny_model, chats, tmp_path):
    source = tiny_model("llama")
    done = run(
        *("torchrun", "--nproc-per-node", 1, ENTRY, "--model-cfg", source, "--tokenizer-path", source),
        *("--dataset", chats, "--work-dir", tmp_path, "--total-step", 1, "--lora.rank", 4),
    )
    assert "--lora.rank and --model-cfg are both given" in done.stderr and not list_runs(tmp_path)


def _adapted(mesh, model_dir):
    model = build_meta_model(read_model_config(model_dir))
    add_adapters(model, LoraConfig(rank=5), model_dir)
    shard_model(model, mesh, FSDPConfig())
    load_weights(model, model_dir)
    initialize_buffers(model)
    initialize_adapters(model, seed=3, dropout_stream=mesh.get_rank())
    return model


def _initial_weights(mesh, model_dir):
    return engine_parts.full_weights(_adapted(mesh, model_dir))


def _export(mesh, model_dir, directory):
    model, is_writer = _adapted(mesh, model_dir), mesh.get_rank() == 0
    export_adapter(model, directory / "adapter", is_writer=is_writer)
    export_model(model, directory / "hf", source=model_dir, tokenizer_dir=model_dir, is_writer=is_writer)


def test_adapters_begin_the_same_at_every_world_size(tiny_model, tmp_path):
    one, three = (ranks.run_ranks(n, _initial_weights, tmp_path / str(n), tiny_model("gpt_oss"))[0] for n in (1, 3))
    assert one.keys() == three.keys() and all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize("architecture", ["qwen3", "mixtral", "gpt_oss"])
def test_export_of_uneven_untrained_adapters_is_the_source(tiny_model, tmp_path, architecture):
    """Three ranks divide neither 64 rows nor 4 experts nor rank 5; B is zero, so merging changes nothing."""
    source = tiny_model(architecture)
    ranks.run_ranks(3, _export, tmp_path / "ranks", source, tmp_path)
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", source))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(tensor.any() for tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values())

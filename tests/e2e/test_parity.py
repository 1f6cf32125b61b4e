"""The same numbers whatever the number of ranks, micro-batches, and where the parameters live."""

import math

import engine_parts
import pytest
import ranks
import torch
from commands import ENTRY, run

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import FSDPConfig
from xtuner.v1.datasets.batches import Batches, DataShare
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.export import export_model
from xtuner.v1.model.initialize import initialize_buffers, initialize_weights
from xtuner.v1.model.shard import shard_model

# Rows of very different lengths and very different numbers of trained tokens.
PACKS = [[(200, 150)], [(12, 2), (9, 1)], [(90, 5)], [(33, 30), (100, 64)]]


def _gradient(mesh, model_dir, num_packs):
    """The full gradient of one step over `num_packs` packs: plain SGD at rate 1 moves by it."""
    engine = engine_parts.engine(mesh, model_dir, sgd=True, max_grad_norm=math.inf)
    batches = Batches(
        engine_parts.prepared(PACKS),
        DataShare(mesh.get_local_rank(), mesh.size()),
        sequences_per_step=num_packs,
        seed=0,
    )
    gradient, outcome = engine_parts.gradient_of_step(engine, batches.fetch(1))
    return gradient, outcome.reduced_loss, outcome.grad_norm


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
def test_ranks_times_micro_batches_give_the_same_gradient(tiny_model, tmp_path, architecture):
    model_dir = tiny_model(architecture)
    results = [ranks.run_ranks(n, _gradient, tmp_path / str(n), model_dir, 4) for n in (1, 2, 4)]
    reference, loss, norm = results[0][0]
    for result in (rank_result for world in results for rank_result in world):
        gradient, other_loss, other_norm = result
        assert other_loss == pytest.approx(loss, rel=1e-6) and other_norm == pytest.approx(norm, rel=1e-5)
        for name in reference:
            torch.testing.assert_close(gradient[name], reference[name], rtol=1e-5, atol=1e-5)


def _random_weights(mesh, model_dir):
    model = build_meta_model(read_model_config(model_dir))
    shard_model(model, mesh, FSDPConfig())
    initialize_weights(model, seed=3)
    initialize_buffers(model)
    return engine_parts.full_weights(model)


def test_random_weights_are_the_same_at_every_world_size(tiny_model, tmp_path):
    one, three = (ranks.run_ranks(n, _random_weights, tmp_path / str(n), tiny_model("llama"))[0] for n in (1, 3))
    assert one.keys() == three.keys() and all(torch.equal(one[name], three[name]) for name in one)


def _export(mesh, model_dir, out):
    model = engine_parts.sharded_model(mesh, model_dir)
    export_model(model, out, source=model_dir, tokenizer_dir=model_dir, is_writer=mesh.get_local_rank() == 0)


@pytest.mark.parametrize("architecture", ["qwen3", "mixtral", "gpt_oss"])
def test_export_of_uneven_shards_is_the_source(tiny_model, tmp_path, architecture):
    """Three ranks divide neither 64 rows nor 4 experts."""
    source = tiny_model(architecture)
    ranks.run_ranks(3, _export, tmp_path / "ranks", source, tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").stat().st_size == (source / "model.safetensors").stat().st_size
    from safetensors.torch import load_file

    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", source))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _losses(work_dir, num_ranks, *flags):
    done = run("torchrun", "--nproc-per-node", num_ranks, ENTRY, *flags, "--work-dir", work_dir)
    assert done.returncode == 0, done.stderr
    return [record["reduced_llm_loss"] for record in read_metrics(list_runs(work_dir)[0].rank_metrics(0))]


def test_loss_curves_do_not_depend_on_ranks_or_offload(tiny_model, chats, tmp_path):
    flags = ["--load-from", tiny_model("llama-tied"), "--dataset", chats, "--total-step", 20, "--lr", "1e-3"]
    flags += ["--pack-max-length", 512, "--global-batch-size", 4]
    one = _losses(tmp_path / "one", 1, *flags)
    two = _losses(tmp_path / "two", 2, *flags)
    offloaded = _losses(tmp_path / "offloaded", 2, *flags, "--fsdp-config.cpu-offload")
    assert len(one) == 20 and one[-1] < one[0] - 0.5
    assert two == pytest.approx(one, abs=1e-4)
    assert offloaded == two


def test_bfloat16_compute_trains_and_keeps_float32_parameters(tiny_model, chats, tmp_path):
    flags = ["--load-from", tiny_model("qwen3"), "--dataset", chats, "--total-step", 8, "--lr", "1e-3"]
    flags += ["--pack-max-length", 512]
    exact = _losses(tmp_path / "fp32", 2, *flags)
    rounded = _losses(tmp_path / "bf16", 2, *flags, "--fsdp-config.compute-dtype", "bfloat16")
    assert rounded == pytest.approx(exact, rel=2e-2) and rounded != exact

"""Options that change where weights live and what is computed twice change no gradient."""

import math

import engine_parts
import pytest
import ranks
import torch

from xtuner.v1.config import FSDPConfig
from xtuner.v1.config.memory import recompute_ratio
from xtuner.v1.datasets.batches import Batches, DataShare
from xtuner.v1.engine.distributed import mesh_of_ranks

PACKS = [[(120, 90)], [(12, 2), (9, 1)], [(90, 5)], [(33, 30), (60, 44)]]
OPTIONS = {
    "as it comes": {},
    "weights stay gathered": {"reshard_after_forward": False},
    "nothing gathered ahead": {"prefetch": 0},
    "all gathered ahead": {"prefetch": 5},
    "half recomputed": {"recompute_ratio": 0.5},
    "all recomputed": {"recompute_ratio": 1.0},
    "offloaded": {"cpu_offload": True},
    "recomputed, offloaded, kept": {"recompute_ratio": 1.0, "cpu_offload": True, "reshard_after_forward": False},
}


def _gradients(mesh, model_dir, all_options):
    """For each set of options the full gradient, loss and norm of one step over all packs."""
    results = []
    for options in all_options:
        fsdp = FSDPConfig(**options)
        size = fsdp.hsdp_sharding_size
        mesh_here = mesh_of_ranks("cpu", mesh.size(), size) if size else mesh
        engine = engine_parts.engine(mesh_here, model_dir, sgd=True, max_grad_norm=math.inf, fsdp=fsdp)
        data = engine_parts.prepared(PACKS)
        batches = Batches(data, DataShare(mesh.get_rank(), mesh.size()), sequences_per_step=4, seed=0)
        gradient, outcome = engine_parts.gradient_of_step(engine, batches.fetch(1))
        results.append((gradient, outcome.reduced_loss, outcome.grad_norm, outcome.token_accuracy))
    return results


def _assert_same(result, reference, *, rtol=1e-5, atol=1e-5):
    gradient, loss, norm, accuracy = result
    expected, expected_loss, expected_norm, expected_accuracy = reference
    assert loss == pytest.approx(expected_loss, rel=rtol) and norm == pytest.approx(expected_norm, rel=rtol)
    assert accuracy == pytest.approx(expected_accuracy, abs=rtol)
    for name in expected:
        torch.testing.assert_close(gradient[name], expected[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt_oss", "qwen3_moe"])
def test_gradients_do_not_depend_on_sharding_options(tiny_model, tmp_path, architecture):
    model_dir = tiny_model(architecture)
    [[reference]] = ranks.run_ranks(1, _gradients, tmp_path / "1", model_dir, [{}])
    for num_ranks in (1, 2):
        directory = tmp_path / f"{num_ranks} ranks"
        for of_rank in ranks.run_ranks(num_ranks, _gradients, directory, model_dir, list(OPTIONS.values())):
            for result in of_rank:
                _assert_same(result, reference)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_copies_of_shards_give_the_same_gradient(tiny_model, tmp_path, architecture):
    """Two copies over two ranks each, four copies over one, one copy over four; three divides no dimension."""
    model_dir = tiny_model(architecture)
    [[reference]] = ranks.run_ranks(1, _gradients, tmp_path / "1", model_dir, [{}])
    options = [{"hsdp_sharding_size": size} for size in (2, 1, 4)] + [{"hsdp_sharding_size": 2, "recompute_ratio": 1.0}]
    for of_rank in ranks.run_ranks(4, _gradients, tmp_path / "4", model_dir, options):
        for result in of_rank:
            _assert_same(result, reference)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_compiled_blocks_give_the_same_gradient(tiny_model, tmp_path, architecture):
    model_dir = tiny_model(architecture)
    options = [{}, {"torch_compile": True}, {"torch_compile": True, "recompute_ratio": 0.5}]
    [[reference, *compiled]] = ranks.run_ranks(1, _gradients, tmp_path / "1", model_dir, options)
    for result in compiled:
        _assert_same(result, reference, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close_and_not_equal(tiny_model, tmp_path):
    model_dir = tiny_model("qwen3")
    [[reference]] = ranks.run_ranks(1, _gradients, tmp_path / "1", model_dir, [{}])
    options = [{"compute_dtype": "bfloat16"}, {"compute_dtype": "bfloat16", "recompute_ratio": 1.0}]
    for rounded, recomputed in ranks.run_ranks(2, _gradients, tmp_path / "2", model_dir, options):
        (gradient, loss, norm, _), (expected, expected_loss, expected_norm, _) = rounded, reference
        assert loss == pytest.approx(expected_loss, rel=1e-2) and loss != expected_loss
        assert norm == pytest.approx(expected_norm, rel=5e-2)
        whole, difference = (
            torch.cat([t.flatten() for t in part.values()]) for part in (expected, _minus(gradient, expected))
        )
        assert difference.norm() < 0.05 * whole.norm()
        _assert_same(recomputed, rounded)


def _minus(a, b):
    return {name: a[name] - b[name] for name in a}


def test_recompute_by_default_on_accelerators_alone():
    assert recompute_ratio(FSDPConfig(), "cuda") == 1.0 and recompute_ratio(FSDPConfig(), "cpu") == 0.0
    assert recompute_ratio(FSDPConfig(recompute_ratio=0.25), "cuda") == 0.25

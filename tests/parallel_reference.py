"""One step and one evaluation on ranks that share their work, and the same on one rank alone."""

import math

import engine_parts
import pytest
import torch
from ranks import run_ranks

from xtuner.v1.config import FSDPConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.datasets.eval_batches import EvalBatches
from xtuner.v1.engine.distributed import Ranks, join_sequence_group, join_tensor_group, mesh_of_ranks
from xtuner.v1.engine.evaluation import evaluate

# Odd lengths that no number of ranks divides, and a pack whose only target is at its end: parts without any.
PACKS = [[(121, 90)], [(12, 2), (9, 1)], [(90, 1)], [(33, 30), (62, 44)]]


def step_and_evaluation(mesh, model_dirs, all_options, sp_size=1, tp_size=1):
    """For each model, for each set of options: one step and one evaluation, see `_results`."""
    here = Ranks(mesh.get_rank(), 0, mesh.size(), sp_size, tp_size)
    groups = {"sequence_group": join_sequence_group("cpu", here), "tensor_group": join_tensor_group("cpu", here)}
    return [
        [_results(here, model_dir, FSDPConfig(**options), groups) for options in all_options]
        for model_dir in model_dirs
    ]


def _results(here, model_dir, fsdp, groups):
    """Gradient, loss, norm and accuracy of one step, the outcome of an evaluation, tokens and targets of the rank."""
    data = engine_parts.prepared(PACKS)
    mesh = mesh_of_ranks("cpu", here.world_size, fsdp.hsdp_sharding_size, here.tp_size)
    engine = engine_parts.engine(mesh, model_dir, sgd=True, max_grad_norm=math.inf, fsdp=fsdp, **groups)
    evaluated = evaluate(engine, EvalBatches(data, here.data_share, max_packs=3))
    batch = Batches(data, here.data_share, sequences_per_step=4, seed=0).fetch(1)
    gradient, outcome = engine_parts.gradient_of_step(engine, batch)
    return gradient, vars(outcome), vars(evaluated), batch.num_tokens, batch.num_targets


def alone(tmp_path, model_dirs):
    """The results of one rank for each model."""
    [results] = run_ranks(1, step_and_evaluation, tmp_path / "alone", model_dirs, [{}])
    return [result for [result] in results]


def assert_same(result, reference, tolerance=1e-5):
    """Gradient, outcome of the step and evaluation of two results are equal."""
    gradient, outcome, evaluated, *_ = result
    expected, expected_outcome, expected_evaluated, *_ = reference
    assert evaluated == pytest.approx(expected_evaluated, rel=tolerance)
    for name in ("reduced_loss", "grad_norm", "token_accuracy"):
        assert outcome[name] == pytest.approx(expected_outcome[name], rel=tolerance)
    assert gradient.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(gradient[name], expected[name], rtol=tolerance, atol=tolerance)

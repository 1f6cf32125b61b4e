"""Ranks that share each pack train what one rank alone trains."""

import math

import engine_parts
import pytest
import ranks
import torch
from commands import run

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import FSDPConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.datasets.eval_batches import EvalBatches
from xtuner.v1.engine.distributed import Ranks, join_sequence_group, mesh_of_ranks
from xtuner.v1.engine.evaluation import evaluate

# Odd lengths that no number of ranks divides, and a pack whose only target is at its end: parts without any.
PACKS = [[(121, 90)], [(12, 2), (9, 1)], [(90, 1)], [(33, 30), (62, 44)]]


def _results(mesh, model_dir, sp_size, all_options):
    """For each set of options gradient, loss, norm and accuracy of one step, and the outcome of an evaluation."""
    here = Ranks(mesh.get_rank(), 0, mesh.size(), sp_size)
    group = join_sequence_group("cpu", here)
    place = {
        "rank": here.data_rank,
        "world_size": here.num_data_ranks,
        "part": here.sequence_rank,
        "num_parts": sp_size,
    }
    data = engine_parts.prepared(PACKS)
    results = []
    for options in all_options:
        fsdp = FSDPConfig(**options)
        size = fsdp.hsdp_sharding_size
        mesh_here = mesh_of_ranks("cpu", mesh.size(), size) if size else mesh
        engine = engine_parts.engine(
            mesh_here, model_dir, sgd=True, max_grad_norm=math.inf, fsdp=fsdp, sequence_group=group
        )
        evaluated = evaluate(engine, EvalBatches(data, max_packs=3, **place))
        batch = Batches(data, sequences_per_step=4, seed=0, **place).fetch(1)
        gradient, outcome = engine_parts.gradient_of_step(engine, batch)
        results.append((gradient, vars(outcome), vars(evaluated), batch.num_tokens, batch.num_targets))
    return results


def _assert_same(result, reference, tolerance):
    gradient, outcome, evaluated, *_ = result
    expected, expected_outcome, expected_evaluated, *_ = reference
    assert evaluated == pytest.approx(expected_evaluated, rel=tolerance)
    for name in ("reduced_loss", "grad_norm", "token_accuracy"):
        assert outcome[name] == pytest.approx(expected_outcome[name], rel=tolerance)
    for name in expected:
        torch.testing.assert_close(gradient[name], expected[name], rtol=tolerance, atol=tolerance)


OPTIONS = [{}, {"recompute_ratio": 1.0}, {"cpu_offload": True}]


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma2", "gpt_oss", "qwen3_moe", "mixtral"])
def test_two_ranks_that_share_packs_give_the_gradient_of_one(tiny_model, tmp_path, architecture):
    model_dir = tiny_model(architecture)
    [[reference]] = ranks.run_ranks(1, _results, tmp_path / "1", model_dir, 1, [{}])
    of_ranks = ranks.run_ranks(2, _results, tmp_path / "2", model_dir, 2, OPTIONS)
    for results in of_ranks:
        for result in results:
            _assert_same(result, reference, 1e-5)
    for index in (3, 4):  # tokens and targets: each in one part
        assert sum(results[0][index] for results in of_ranks) == reference[index]
    first, second = (results[0][1]["local_loss"] for results in of_ranks)
    assert first == second == pytest.approx(reference[1]["reduced_loss"], rel=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3", "gpt_oss"])
def test_four_ranks(tiny_model, tmp_path, architecture):
    """Two groups of two, with copies of shards too, and one group of four: more ranks than key-value heads."""
    model_dir = tiny_model(architecture)
    [[reference]] = ranks.run_ranks(1, _results, tmp_path / "1", model_dir, 1, [{}])
    for sp_size, options in ((2, [{}, {"hsdp_sharding_size": 2}]), (4, [{}])):
        for results in ranks.run_ranks(4, _results, tmp_path / f"sp {sp_size}", model_dir, sp_size, options):
            for result in results:
                _assert_same(result, reference, 1e-5)


def test_compiled_blocks(tiny_model, tmp_path):
    model_dir = tiny_model("qwen3")
    [[reference]] = ranks.run_ranks(1, _results, tmp_path / "1", model_dir, 1, [{}])
    for [result] in ranks.run_ranks(2, _results, tmp_path / "2", model_dir, 2, [{"torch_compile": True}]):
        _assert_same(result, reference, 1e-4)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_run_that_shares_packs_trains_like_one_rank(tiny_model, chats, tmp_path, lora_rank):
    records, evaluations = {}, {}
    for num_ranks, sp_size in ((1, 1), (2, 2)):
        work_dir = tmp_path / f"sp{sp_size}"
        done = run(
            *("xtuner", "sft", "--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", work_dir),
            *("--total-step", 4, "--pack-max-length", 511, "--nproc-per-node", num_ranks, "--sp-size", sp_size),
            *("--global-batch-size", 2, "--eval-dataset", chats, "--eval-generations", 1),
            *("--eval-generation-tokens", 4, "--lora.rank", lora_rank),
        )
        assert done.returncode == 0, done.stderr
        [run_dir] = list_runs(work_dir)
        records[sp_size] = [list(read_metrics(run_dir.rank_metrics(rank))) for rank in range(num_ranks)]
        evaluations[sp_size] = [record["loss"] for record in read_metrics(run_dir.eval_metrics)]
    [alone], [first, second] = records[1], records[2]
    assert len(alone) == 4 and evaluations[2] == pytest.approx(evaluations[1], rel=1e-4)
    for whole, part, other in zip(alone, first, second, strict=True):
        assert part["reduced_llm_loss"] == pytest.approx(whole["reduced_llm_loss"], rel=1e-4)
        assert part["text_tokens"] + other["text_tokens"] == whole["text_tokens"]
        assert part["total_loss"] == other["total_loss"]

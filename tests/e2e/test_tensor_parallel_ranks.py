"""Ranks that share the matrices of each block train what one rank alone trains."""

import engine_parts
import pytest
import ranks
import torch
from commands import run
from parallel_reference import alone, assert_same, step_and_evaluation

from xtuner.errors import ModelError
from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import FSDPConfig
from xtuner.v1.engine.distributed import Ranks, join_tensor_group, mesh_of_ranks
from xtuner.v1.engine.objective import teach_loss
from xtuner.v1.engine.replicas import check_replicas
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.initialize import initialize_buffers, initialize_weights
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.shard import shard_model

OPTIONS = [{}, {"recompute_ratio": 1.0}, {"cpu_offload": True}]


@pytest.mark.parametrize(
    "architectures",
    [("qwen3", "llama", "gemma2", "mistral", "phi3"), ("qwen3_moe", "mixtral", "deepseek_v3")],
    ids=["dense", "experts"],
)
def test_two_ranks_that_share_blocks_give_the_gradient_of_one(tiny_model, tmp_path, architectures):
    model_dirs = list(map(tiny_model, architectures))
    references = alone(tmp_path, model_dirs)
    for of_rank in ranks.run_ranks(2, step_and_evaluation, tmp_path / "2", model_dirs, OPTIONS, 1, 2):
        for results, reference in zip(of_rank, references, strict=True):
            for result in results:
                assert_same(result, reference)
                assert result[1]["local_loss"] == pytest.approx(reference[1]["local_loss"], rel=1e-5)


def test_four_ranks_share_blocks_in_twos(tiny_model, tmp_path):
    """Inside FSDP, inside HSDP, and with packs shared as well."""
    model_dirs = [tiny_model("qwen3"), tiny_model("qwen3_moe")]
    references = alone(tmp_path, model_dirs)
    for sp_size, options in ((1, [{}, {"hsdp_sharding_size": 2}]), (2, [{}])):
        directory = tmp_path / f"sp {sp_size}"
        for of_rank in ranks.run_ranks(4, step_and_evaluation, directory, model_dirs, options, sp_size, 2):
            for results, reference in zip(of_rank, references, strict=True):
                for result in results:
                    assert_same(result, reference)


def test_four_ranks_share_blocks(tiny_model, tmp_path):
    model_dirs = [tiny_model("llama-4-kv-heads")]
    [reference] = alone(tmp_path, model_dirs)
    for [[result]] in ranks.run_ranks(4, step_and_evaluation, tmp_path / "4", model_dirs, [{}], 1, 4):
        assert_same(result, reference)


def _random_weights(mesh, model_dir, tp_size):
    model = build_meta_model(read_model_config(model_dir))
    group = join_tensor_group("cpu", Ranks(mesh.get_rank(), 0, mesh.size(), 1, tp_size))
    shard_model(model, mesh_of_ranks("cpu", mesh.size(), None, tp_size), FSDPConfig(), group)
    initialize_weights(model, seed=0)
    initialize_buffers(model)
    return engine_parts.full_weights(model)


def test_random_weights_do_not_depend_on_the_ranks(tiny_model, tmp_path):
    model_dir = tiny_model("qwen3_moe")
    [expected] = ranks.run_ranks(1, _random_weights, tmp_path / "1", model_dir, 1)
    for weights in ranks.run_ranks(4, _random_weights, tmp_path / "4", model_dir, 2):
        for name in expected:
            torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=0)


def _refusal(mesh, model_dir, left_out):
    """What `check_replicas` says where the model's plan lacks an entry."""
    model = build_meta_model(read_model_config(model_dir))
    plan = model.config.base_model_tp_plan
    model.config.base_model_tp_plan = {path: style for path, style in plan.items() if path != left_out}
    group = join_tensor_group("cpu", Ranks(mesh.get_rank(), 0, mesh.size(), 1, 2))
    shard_model(model, mesh_of_ranks("cpu", 2, None, 2), FSDPConfig(), group)
    load_weights(model, model_dir)
    initialize_buffers(model)
    teach_loss(model, chunk_size=1024)
    try:
        check_replicas(model, group, torch.device("cpu"))
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("left_out", "named"), [("", ""), ("layers.*.self_attn.q_norm", "q_norm.weight")])
def test_a_plan_that_leaves_something_out_is_refused(tiny_model, tmp_path, left_out, named):
    for message in ranks.run_ranks(2, _refusal, tmp_path, tiny_model("qwen3"), left_out):
        assert named in message and bool(message) == bool(named)


@pytest.mark.parametrize(
    "lora", [(), ("--lora.rank", 4), ("--lora.rank", 4, "--optimizer", "adamw-8bit")], ids=["all", "lora", "8bit"]
)
def test_a_run_that_shares_blocks_trains_like_one_rank(tiny_model, chats, tmp_path, lora):
    records, evaluations, exported = {}, {}, {}
    for num_ranks in (1, 2):
        work_dir = tmp_path / f"tp{num_ranks}"
        done = run(
            *("xtuner", "sft", "--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", work_dir),
            *("--total-step", 4, "--pack-max-length", 512, "--nproc-per-node", num_ranks, "--tp-size", num_ranks),
            *("--global-batch-size", 2, "--eval-dataset", chats, "--eval-generations", 1),
            *("--eval-generation-tokens", 4, *lora),
        )
        assert done.returncode == 0, done.stderr
        [run_dir] = list_runs(work_dir)
        records[num_ranks] = [list(read_metrics(run_dir.rank_metrics(rank))) for rank in range(num_ranks)]
        evaluations[num_ranks] = [record["loss"] for record in read_metrics(run_dir.eval_metrics)]
        exported[num_ranks] = engine_parts.stored_tensors(run_dir.latest_export)
    [alone], [first, second] = records[1], records[2]
    assert len(alone) == 4 and evaluations[2] == pytest.approx(evaluations[1], rel=1e-4)
    for whole, one, other in zip(alone, first, second, strict=True):
        assert one["reduced_llm_loss"] == pytest.approx(whole["reduced_llm_loss"], rel=1e-4)
        assert one["grad_norm"] == other["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        assert one["text_tokens"] + other["text_tokens"] == whole["text_tokens"]
    assert exported[1].keys() == exported[2].keys()
    for name, tensor in exported[1].items():  # AdamW's first steps enlarge rounding where a gradient is near zero
        torch.testing.assert_close(exported[2][name], tensor, rtol=0, atol=1e-4)

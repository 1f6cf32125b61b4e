"""Ranks that share each pack train what one rank alone trains."""

import pytest
import ranks
from commands import run
from parallel_reference import alone, assert_same, step_and_evaluation

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics

OPTIONS = [{}, {"recompute_ratio": 1.0}, {"cpu_offload": True}]


@pytest.mark.parametrize(
    "architectures", [("qwen3", "llama", "gemma2"), ("gpt_oss", "qwen3_moe", "mixtral")], ids=["dense", "experts"]
)
def test_two_ranks_that_share_packs_give_the_gradient_of_one(tiny_model, tmp_path, architectures):
    model_dirs = list(map(tiny_model, architectures))
    references = alone(tmp_path, model_dirs)
    of_ranks = ranks.run_ranks(2, step_and_evaluation, tmp_path / "2", model_dirs, OPTIONS, 2)
    for reference, *of_model in zip(references, *of_ranks, strict=True):
        for results in of_model:
            for result in results:
                assert_same(result, reference)
        for index in (3, 4):  # tokens and targets: each in one part
            assert sum(results[0][index] for results in of_model) == reference[index]
        first, second = (results[0][1]["local_loss"] for results in of_model)
        assert first == second == pytest.approx(reference[1]["reduced_loss"], rel=1e-5)


def test_four_ranks(tiny_model, tmp_path):
    """Two groups of two, with copies of shards too, and one group of four: more ranks than key-value heads."""
    model_dirs = [tiny_model("qwen3"), tiny_model("gpt_oss")]
    references = alone(tmp_path, model_dirs)
    for sp_size, options in ((2, [{}, {"hsdp_sharding_size": 2}]), (4, [{}])):
        directory = tmp_path / f"sp {sp_size}"
        for of_rank in ranks.run_ranks(4, step_and_evaluation, directory, model_dirs, options, sp_size):
            for results, reference in zip(of_rank, references, strict=True):
                for result in results:
                    assert_same(result, reference)


def test_compiled_blocks(tiny_model, tmp_path):
    model_dirs = [tiny_model("qwen3")]
    [reference] = alone(tmp_path, model_dirs)
    compiled = [{"torch_compile": True}]
    for [[result]] in ranks.run_ranks(2, step_and_evaluation, tmp_path / "2", model_dirs, compiled, 2):
        assert_same(result, reference, 1e-4)


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

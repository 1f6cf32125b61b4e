"""Evaluation through torchrun: the same at every number of ranks, the best kept, the end when nothing improves."""

import json
import math

import engine_parts
import pytest
import ranks
import tiny_models
from commands import ENTRY, run

from xtuner.preflight import prepare_evaluation_data
from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import DataShare
from xtuner.v1.datasets.eval_batches import EvalBatches
from xtuner.v1.engine.evaluation import evaluate

PACKS = [[(200, 150)], [(12, 2), (9, 1)], [(90, 5)], [(33, 30), (100, 64)], [(7, 3)]]


def _evaluate(mesh, model_dir, data):
    batches = EvalBatches(data, DataShare(mesh.get_local_rank(), mesh.size()))
    outcome = evaluate(engine_parts.engine(mesh, model_dir), batches)
    return outcome.loss, outcome.token_accuracy, outcome.num_tokens


def test_ranks_with_idle_ones_among_them_give_the_same_numbers(tiny_model, tmp_path):
    """Five packs for 2, 3 and 4 ranks: 1, 1 and 3 forward passes are there for the others' sake."""
    data = engine_parts.prepared(PACKS)
    arguments = (tiny_model("qwen3_moe"), data)
    (reference,) = ranks.run_ranks(1, _evaluate, tmp_path / "1", *arguments)
    for num_ranks in (2, 3, 4):
        for loss, accuracy, num_tokens in ranks.run_ranks(num_ranks, _evaluate, tmp_path / str(num_ranks), *arguments):
            assert loss == pytest.approx(reference[0], rel=1e-6)
            assert (accuracy, num_tokens) == (reference[1], reference[2])


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return tiny_models.make_chats(tmp_path_factory.mktemp("held out") / "eval.jsonl", num_rows=30, seed=7)


def _train(work_dir, num_ranks, model_dir, chats, held_out, *flags):
    done = run(
        *("torchrun", "--nproc-per-node", num_ranks, ENTRY, "--load-from", model_dir, "--dataset", chats),
        *("--eval-dataset", held_out, "--work-dir", work_dir, "--pack-max-length", 512, "--global-batch-size", 4),
        *flags,
    )
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(work_dir)
    return run_dir, list(read_metrics(run_dir.eval_metrics))


def _loss_in_transformers(model_dir, held_out):
    """The evaluation loss of an exported directory, by plain transformers, a row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    config = TrainerConfig(load_from=model_dir, eval_dataset=(held_out,), pack_max_length=512)
    data = prepare_evaluation_data(config)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    total = count = 0
    for pack in range(data.num_packs):
        for sequence in data.pack(pack):
            ids = torch.from_numpy(sequence.ids.astype("int64"))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1]
            is_target = torch.from_numpy(sequence.is_trained[1:].copy())
            loss = torch.nn.functional.cross_entropy(logits[is_target], ids[0, 1:][is_target], reduction="sum")
            total, count = total + loss.item(), count + int(is_target.sum())
    return total / count


@pytest.fixture(scope="module")
def evaluated(tiny_model, chats, held_out, tmp_path_factory):
    """Nine steps on 1 and on 2 ranks, evaluated before the first and every fourth."""
    flags = ["--total-step", 9, "--eval-interval", 4, "--lr", "1e-3"]
    root = tmp_path_factory.mktemp("runs")
    return [_train(root / str(n), n, tiny_model("llama-tied"), chats, held_out, *flags) for n in (1, 2)]


def test_one_and_two_ranks_say_the_same(evaluated):
    (_, one), (run_dir, two) = evaluated
    assert [record["step"] for record in one] == [record["step"] for record in two] == [0, 4, 8, 9]
    assert all(record["kind"] == "eval" and record["total_steps"] == 9 for record in two)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-4)
    assert [r["perplexity"] for r in two] == pytest.approx([math.exp(r["loss"]) for r in two])
    assert one[0]["num_tokens"] == two[0]["num_tokens"] and two[-1]["loss"] < two[0]["loss"] - 0.1
    log = run_dir.rank_log(0).read_text()
    last = two[-1]
    assert f"Evaluation at step 9: loss {last['loss']:.4f}, perplexity {last['perplexity']:.2f}, token accuracy " in log
    assert "Evaluation at step" not in run_dir.rank_log(1).read_text()
    assert len(list(read_metrics(run_dir.rank_metrics(0)))) == 9  # the records of steps are those of steps alone


def test_the_best_model_has_the_loss_it_claims(evaluated, tiny_model, held_out):
    run_dir, records = evaluated[1]
    best = json.loads(run_dir.best_json.read_text())
    assert best["step"] == min(records, key=lambda record: record["loss"])["step"] == 9
    assert run_dir.best_export.resolve() == run_dir.latest_export.resolve() == run_dir.export(9)  # not written twice
    assert {path.name for path in run_dir.path.glob("hf-*")} == {"hf-9", "hf-best", "hf-latest"}  # no older best left
    assert _loss_in_transformers(run_dir.best_export, held_out) == pytest.approx(best["loss"], rel=1e-5)
    before = _loss_in_transformers(tiny_model("llama-tied"), held_out)
    assert before == pytest.approx(records[0]["loss"], rel=1e-5)


def test_a_run_that_gets_worse_ends_early_and_keeps_its_best(tiny_model, chats, held_out, tmp_path):
    """The rate is so high that the loss falls, and then rises."""
    flags = ["--total-step", 60, "--eval-interval", 2, "--lr", "8e-2", "--early-stopping-patience", 3]
    run_dir, records = _train(
        tmp_path, 2, tiny_model("qwen3"), chats, held_out, *flags, "--scheduler-type", "constant", "--warmup-ratio", "0"
    )
    losses = {int(record["step"]): record["loss"] for record in records}
    status, last = json.loads(run_dir.status_json.read_text()), max(losses)
    assert last < 60 and (status["state"], status["step"], status["exit_code"]) == ("finished", last, 0)
    assert f"ended early after step {last}" in status["message"]
    assert status["message"] in run_dir.rank_log(0).read_text()
    best = min(losses, key=losses.__getitem__)
    assert best == last - 6  # three evaluations back
    assert run_dir.latest_export.resolve() == run_dir.export(last)
    if best:
        assert run_dir.best_export.resolve() == run_dir.export(best)
        assert _loss_in_transformers(run_dir.best_export, held_out) == pytest.approx(losses[best], rel=1e-5)
    else:
        assert not run_dir.best_export.exists() and "no best model was kept" in run_dir.rank_log(0).read_text()


def test_lora_keeps_its_best_adapter(tiny_model, chats, held_out, tmp_path):
    flags = ["--total-step", 3, "--eval-interval", 1, "--lr", "1e-2", "--lora.rank", 4, "--lora.no-merge"]
    run_dir, records = _train(tmp_path, 1, tiny_model("qwen3"), chats, held_out, *flags, "--eval-max-packs", 2)
    best = min(records[1:], key=lambda record: record["loss"])["step"]
    assert run_dir.best_adapter.resolve() == run_dir.adapter(int(best)) and not run_dir.best_export.exists()
    assert (run_dir.best_adapter / "adapter_model.safetensors").is_file()


def test_sft_names_file_and_line_of_a_bad_evaluation_row(tiny_model, chats, tmp_path):
    bad = tmp_path / "eval.jsonl"
    bad.write_text('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]\n{"messages": 3}\n')
    flags = ["--load-from", tiny_model("qwen3"), "--dataset", chats, "--eval-dataset", bad, "--total-step", 1]
    done = run("xtuner", "sft", *flags, "--work-dir", tmp_path / "w")
    assert done.returncode == 4 and f"{bad}:2" in done.stderr and not (tmp_path / "w").exists()


def test_generations_and_tensorboard_of_a_run(tiny_model, chats, held_out, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--total-step", 2, "--eval-generations", 2, "--eval-generation-tokens", 6, "--report-to", "tensorboard"]
    run_dir, records = _train(tmp_path, 2, tiny_model("qwen3"), chats, held_out, *flags)
    replies = list(read_metrics(run_dir.generations))
    first_rows = [json.loads(line) for line in held_out.read_text().splitlines()[:2]]
    assert [reply["step"] for reply in replies] == [0, 0, 2, 2]
    assert [reply["where"] for reply in replies] == [f"{held_out}:1", f"{held_out}:2"] * 2
    for reply, messages in zip(replies, first_rows * 2, strict=True):
        assert reply["reference"] == messages[-1]["content"] not in reply["prompt"]
        assert messages[-2]["content"] in reply["prompt"] and reply["prompt"].endswith("assistant\n")
    assert f"Reply at step 2 to {held_out}:1: " in run_dir.rank_log(0).read_text()

    written = EventAccumulator(str(run_dir.path / "tensorboard")).Reload()
    assert [event.value for event in written.Scalars("eval/loss")] == pytest.approx([r["loss"] for r in records])
    steps = [record["reduced_llm_loss"] for record in read_metrics(run_dir.rank_metrics(0))]
    assert [event.value for event in written.Scalars("train/reduced_llm_loss")] == pytest.approx(steps)

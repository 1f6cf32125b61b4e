"""Evaluation: the numbers of plain transformers, every pack once, and when a run ends."""

import json
import math

import engine_parts
import pytest
import torch
from transformers import AutoModelForCausalLM

from xtuner.data.prompts import read_prompts
from xtuner.errors import DataError
from xtuner.preflight import data_request, prepare_evaluation_data, prepare_training_data
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import DataShare
from xtuner.v1.datasets.eval_batches import EvalBatches
from xtuner.v1.engine.evaluation import EvalOutcome, evaluate
from xtuner.v1.train.evaluate import Progress

PACKS = [[(200, 150)], [(12, 2), (9, 1)], [(90, 5)], [(33, 30), (100, 64)], [(7, 3)]]


def _reference(model_dir, data, num_packs):
    """Plain transformers, one row at a time: sum of the losses, number right, number of targets."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    loss = correct = count = 0
    for pack in range(num_packs):
        for sequence in data.pack(pack):
            ids = torch.from_numpy(sequence.ids.astype("int64"))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1]
            is_target = torch.from_numpy(sequence.is_trained[1:].copy())
            logits, targets = logits[is_target], ids[0, 1:][is_target]
            loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            correct += (logits.argmax(-1) == targets).sum().item()
            count += len(targets)
    return loss / count, correct / count, count


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize(("max_packs", "pad_multiple"), [(None, 1), (3, 64)])
def test_equals_plain_transformers_on_the_same_rows(mesh, tiny_model, architecture, max_packs, pad_multiple):
    engine = engine_parts.engine(mesh, tiny_model(architecture))
    data = engine_parts.prepared(PACKS)
    batches = EvalBatches(data, max_packs=max_packs, pad_multiple=pad_multiple)
    outcome = evaluate(engine, batches)
    loss, accuracy, count = _reference(tiny_model(architecture), data, max_packs or len(PACKS))
    assert outcome.num_tokens == batches.num_targets == count
    assert outcome.loss == pytest.approx(loss, rel=1e-6)
    assert outcome.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert outcome.token_accuracy == pytest.approx(accuracy, abs=1.5 / count)
    assert evaluate(engine, batches) == outcome  # again the same


def test_it_is_left_after_the_batch_at_which_somebody_wants_to(mesh, tiny_model):
    engine = engine_parts.engine(mesh, tiny_model("qwen3"))
    asked = []

    def wants_end():
        asked.append(True)
        return len(asked) == 2

    assert evaluate(engine, EvalBatches(engine_parts.prepared(PACKS)), wants_end) is None
    assert len(asked) == 2 < len(PACKS) and engine.model.training


def test_training_goes_on_as_if_there_had_been_no_evaluation(mesh, tiny_model):
    from xtuner.v1.datasets.batches import Batches

    data = engine_parts.prepared(PACKS)
    batches = Batches(data, sequences_per_step=2, seed=0)
    weights = []
    for with_evaluation in (False, True):
        engine = engine_parts.engine(mesh, tiny_model("llama-tied"))
        for step in (1, 2):
            if with_evaluation:
                evaluate(engine, EvalBatches(data))
            assert engine.model.training
            engine.train_step(batches.fetch(step), lr=1e-2)
        weights.append(engine_parts.full_weights(engine.model))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_parameters_are_the_masters_afterwards(mesh, tiny_model):
    """FSDP leaves the root's gathered weights in place after a forward pass alone; an export would write those."""
    from xtuner.v1.config import FSDPConfig

    fsdp = FSDPConfig(compute_dtype="bfloat16", reshard_after_forward=False)
    engine = engine_parts.engine(mesh, tiny_model("qwen3"), fsdp=fsdp)
    before = engine_parts.full_weights(engine.model)
    evaluate(engine, EvalBatches(engine_parts.prepared(PACKS)))
    after = engine_parts.full_weights(engine.model)
    assert all(after[name].dtype == torch.float32 and torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_pack_is_counted_once_whatever_the_number_of_ranks(world_size):
    data = engine_parts.prepared(PACKS)
    shares = [list(EvalBatches(data, DataShare(rank, world_size))) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) == -(-len(PACKS) // world_size)
    counted = [batch.micro_batch.document_lengths for share in shares for batch in share if batch.counts]
    assert sorted(counted) == sorted([length for length, _ in pack] for pack in PACKS)
    idle = [batch.micro_batch for share in shares for batch in share if not batch.counts]
    assert all(batch.num_tokens == 2 and batch.num_targets == 1 for batch in idle)


def test_perplexity_may_be_beyond_floats():
    assert EvalOutcome(1000.0, 0.0, 1).perplexity == math.inf
    assert math.isnan(EvalOutcome(math.nan, 0.0, 1).perplexity)


def test_patience_counts_evaluations_without_improvement():
    progress = Progress(patience=2, min_delta=0.1)
    told = [(progress.add(step, loss), progress.is_stalled) for step, loss in enumerate([3.0, 2.0, 1.95, 1.91])]
    # 1.95 and 1.91 are the lowest so far, yet no improvement on 2.0 by 0.1
    assert told == [(True, False), (True, False), (True, False), (True, True)]
    assert (progress.best_step, progress.best_loss) == (3, 1.91)
    small_steps = Progress(patience=2, min_delta=0.1)
    assert [small_steps.add(s, loss) and small_steps.num_stale for s, loss in enumerate([2.0, 1.95, 1.85])] == [0, 1, 0]


def test_nan_is_never_the_best():
    progress = Progress(patience=1)
    assert progress.add(0, 2.0) and not progress.add(1, math.nan) and progress.is_stalled
    assert not Progress(patience=None).is_stalled


def _config(tiny_model, chats, **more):
    return TrainerConfig(load_from=tiny_model("qwen3"), dataset=(chats,), **more)


def test_evaluation_data_goes_the_way_of_training_data(tiny_model, chats):
    config = _config(tiny_model, chats, eval_dataset=(chats,), max_length=300, mask_policy="last-assistant")
    training, evaluation = prepare_training_data(config), prepare_evaluation_data(config)
    assert evaluation.fingerprint() == training.fingerprint()  # the same file, from the same cache
    assert prepare_evaluation_data(_config(tiny_model, chats)) is None


def test_a_bad_row_is_named_with_file_and_line(tiny_model, chats, tmp_path):
    bad = tmp_path / "eval.jsonl"
    bad.write_text(chats.read_text().splitlines()[0] + '\n[{"role": "usr", "content": "Hi"}]\n')
    with pytest.raises(DataError, match=r"eval\.jsonl:2"):
        prepare_evaluation_data(_config(tiny_model, chats, eval_dataset=(bad,)))


def test_prompts_end_where_the_last_reply_begins(tiny_model, tmp_path):
    file = tmp_path / "eval.jsonl"
    rows = [
        [{"role": "user", "content": "no reply"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        [{"role": "user", "content": "long " * 300}, {"role": "assistant", "content": "x"}],
        [
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "3"},
            {"role": "assistant", "content": "4"},
        ],
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = _config(tiny_model, file, eval_dataset=(file,), max_length=200)
    request = data_request(config, config.eval_specs)
    prompts = read_prompts(request, 5)
    assert [(prompt.where.rpartition(":")[2], prompt.reference) for prompt in prompts] == [("2", "b"), ("4", "4")]
    assert prompts[1].text.endswith("<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\n")
    from xtuner.data.template import load_tokenizer

    assert load_tokenizer(config.tokenizer_dir).decode(prompts[1].ids, skip_special_tokens=False) == prompts[1].text
    assert len(read_prompts(request, 1)) == 1 and read_prompts(request, 0) == []

"""A step whose loss or gradient is not finite: it changes nothing, and the run goes on without it or ends."""

import math

import engine_parts
import pytest
import torch

from xtuner.errors import TrainingFailed
from xtuner.run import faults
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.tensors import tensors_of
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.engine import StepOutcome
from xtuner.v1.train.nonfinite import NonfiniteSteps
from xtuner.v1.train.rank_log import RankLog


def _state(engine):
    """Copies of the weights and of the optimizer's state."""
    tensors = tensors_of(engine.model, engine.torch_optimizers)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _require_equal(state, other):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)


@pytest.fixture
def poison():
    """`poison(n)`: the nth micro-batch from here on has a loss that is no number."""
    yield lambda nth: faults.arm(f"loss:nth={nth}:nan")
    faults.arm("")


def test_a_skipped_step_leaves_weights_and_optimizer_as_they_were(mesh, tiny_model, poison):
    """The steps after it are those of a run that never saw it, bit for bit."""
    batches = Batches(engine_parts.prepared([[(16, 8)], [(24, 9)], [(20, 5)], [(12, 7)]]), sequences_per_step=2, seed=0)
    disturbed, other = (engine_parts.engine(mesh, tiny_model("llama")) for _ in range(2))
    for engine in (disturbed, other):
        assert engine.train_step(batches.fetch(1), lr=1e-3).is_updated
    before = _state(disturbed)
    assert any(name.startswith("optimizer.exp_avg") for name in before)

    poison(2)
    outcome = disturbed.train_step(batches.fetch(2), lr=0.5, wishes=lambda: (True, False))
    assert not outcome.is_updated and outcome.bad_batches == (1,) and math.isnan(outcome.reduced_loss)
    assert outcome.wishes == (True, False)  # a signal is heard in such a step too
    _require_equal(_state(disturbed), before)
    assert all(parameter.grad is None for parameter in disturbed.model.parameters())

    for engine in (disturbed, other):
        assert engine.train_step(batches.fetch(3), lr=1e-3).is_updated
    _require_equal(_state(disturbed), _state(other))
    with pytest.raises(AssertionError):  # the control: a step does change them
        _require_equal(_state(disturbed), before)


def _outcome(*bad_batches):
    return StepOutcome(1.0, math.nan, math.inf, 0.5, is_updated=False, bad_batches=bad_batches)


@pytest.fixture
def judge_of(tmp_path):
    """`judge_of(options)` judges the steps of a run, which have two packs of ten rows; and the text of its log."""
    run_dir = RunDir.create(tmp_path)
    log = RankLog(run_dir, 0)
    packs = [[f"a.jsonl:{10 * pack + row}" for row in range(10)] for pack in range(2)]
    yield lambda **options: (
        NonfiniteSteps(TrainerConfig(**options), log, 0, lambda step: packs),
        run_dir.rank_log(0).read_text,
    )
    log.close()


def test_the_run_stops_unless_it_may_skip(mesh, judge_of):
    steps, said = judge_of()
    steps.judge(1, StepOutcome(1.0, 1.0, 1.0, 0.5))
    with pytest.raises(TrainingFailed) as caught:
        steps.judge(2, _outcome(1))
    rows = ", ".join(f"a.jsonl:{line}" for line in range(10, 18))
    assert caught.value.message == (
        f"the loss is nan and the gradient norm inf (rank 0, pack 2 of 2: {rows} and 2 more); "
        "the weights were not updated"
    )
    assert "--on-nonfinite skip" in caught.value.hint and said() == ""


def test_skips_are_counted_over_the_run_and_bounded(mesh, judge_of):
    steps, said = judge_of(on_nonfinite="skip", max_nonfinite_skips=3)
    steps.num_skipped = 1  # before it was resumed
    steps.judge(5, _outcome(0, 1))
    steps.judge(6, StepOutcome(1.0, 1.0, 1.0, 0.5))
    steps.judge(7, _outcome())
    first, second = said().splitlines()
    assert "[WARNING] step 5 is skipped: " in first and "rank 0, packs 1 and 2 of 2: a.jsonl:0, " in first
    assert first.endswith("weights and optimizer are as before; skipped 2 of at most 3")
    assert "step 7 is skipped" in second and "(all losses are finite; rank 0: a.jsonl:0, " in second
    with pytest.raises(TrainingFailed, match="3 skipped before, as many as --max-nonfinite-skips allows"):
        steps.judge(9, _outcome(0))

"""The learning rate as a function of the step."""

import pytest

from xtuner.v1.optim.schedule import learning_rate

DEFAULTS = {"lr": 6e-5, "lr_min": 1e-6, "warmup_ratio": 0.03}


def test_first_steps_of_a_hundred_are_those_of_the_design() -> None:
    rates = [learning_rate(step, 100, scheduler_type="cosine", **DEFAULTS) for step in (1, 2, 3)]
    assert [f"{rate:.6f}" for rate in rates] == ["0.000020", "0.000040", "0.000060"]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_last_step_reaches_the_minimum(kind: str) -> None:
    rates = [learning_rate(step, 50, scheduler_type=kind, **DEFAULTS) for step in range(1, 51)]
    assert rates[-1] == pytest.approx(1e-6)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_wsd_holds_the_peak_and_falls_in_the_last_tenth() -> None:
    rates = [
        learning_rate(step, 200, scheduler_type="wsd", **{**DEFAULTS, "warmup_ratio": 0.5}) for step in range(1, 201)
    ]
    assert rates[99:190] == pytest.approx([6e-5] * 91)
    assert rates[194] == pytest.approx((6e-5 + 1e-6) / 2) and rates[199] == pytest.approx(1e-6)
    assert rates[190:] == sorted(rates[190:], reverse=True)


def test_constant_stays_at_the_peak_and_one_step_runs_divide_by_nothing() -> None:
    assert learning_rate(50, 50, scheduler_type="constant", **DEFAULTS) == 6e-5
    assert learning_rate(1, 1, scheduler_type="cosine", **DEFAULTS) == pytest.approx(1e-6)

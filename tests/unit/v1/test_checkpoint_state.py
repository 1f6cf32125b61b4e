"""What a checkpoint keeps: random numbers, and when it is time for one."""

import json
import random

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from xtuner.v1.checkpoint.random_state import random_state, set_random_state
from xtuner.v1.config import TrainerConfig


def _draw():
    return torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(3).tolist()


def test_random_numbers_go_on_where_they_were():
    cpu = torch.device("cpu")
    random.gauss(0, 1)  # leaves a second number behind for the next call
    state = json.loads(json.dumps(random_state(cpu)))
    expected = [_draw() for _ in range(3)]
    set_random_state(state, cpu)
    assert [_draw() for _ in range(3)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (None, None)),
        ("100", (100, None)),
        (100, (100, None)),
        ("90s", (None, 90.0)),
        ("30min", (None, 1800.0)),
        ("2h", (None, 7200.0)),
    ],
)
def test_an_interval_is_steps_or_a_time(given, expected):
    config = TrainerConfig(load_from="m", dataset="d", checkpoint_interval=given)
    assert config.checkpoint_every == expected


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "2 days", "min", "", 0])
def test_other_intervals_are_refused(given):
    with pytest.raises(ValidationError, match="a number of steps, or a time such as"):
        TrainerConfig(load_from="m", dataset="d", checkpoint_interval=given)

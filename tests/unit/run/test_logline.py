"""The step line: our own format to the byte, and the neighbouring dialects."""

import math
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.logline import LogLine, StepLine, format_log, format_step, parse, rank_from_name

SAMPLE = (
    "[XTuner][RANK 2][2025-08-29 09:17:51][INFO] Step 1/100 data_time: 0.0578 lr: 0.000020 time: 4.9770 "
    "text_tokens: 4008.0 total_loss: 1.722 reduced_llm_loss: 1.684 max_memory: 15.90 GB reserved_memory: 17.87 GB "
    "grad_norm: 13.948 tgs: 805.3 e2e_tgs: 796.1 "
)


def test_the_sample_of_the_design_goes_round():
    line = parse(SAMPLE)
    assert isinstance(line, StepLine)
    assert (line.step, line.total_steps, line.rank, line.level) == (1, 100, 2, "INFO")
    assert line.time == datetime(2025, 8, 29, 9, 17, 51)
    assert line.values["max_memory"] == 15.90 and line.values["lr"] == 0.00002 and len(line.values) == 11
    assert format_step(line) == SAMPLE


@given(
    st.integers(1, 10**9),
    st.lists(st.floats(0, 1e6) | st.sampled_from([math.nan, math.inf]), min_size=11, max_size=11),
    st.none() | st.integers(0, 99999),
)
def test_our_own_lines_go_round(step, numbers, rank):
    keys = list(parse(SAMPLE).values)
    line = StepLine(step, 10**9, dict(zip(keys, numbers, strict=True)), datetime(2026, 1, 2, 3, 4, 5), rank=rank)
    text = format_step(line)
    assert format_step(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "step", "values"),
    [
        ("[XTuner][2025-01-01 00:00:00][INFO] Step 3/9 loss: 1.5 x_y: 2", 3, {"loss": 1.5, "x_y": 2}),
        (
            "[XTuner][2025-01-01 00:00:00][INFO] Epoch 1 Step 12/100 lr: 2.0e-05 loss: nan, eta: 1 day, 2:03:04 tgs: 3",
            12,
            {"lr": 2e-5, "loss": math.nan, "eta": 93784, "tgs": 3},
        ),
        (
            "[XTuner][2025-01-01 00:00:00][INFO] Step 1/2 max_memory: 1.5 GB eta: 0:12:33",
            1,
            {"max_memory": 1.5, "eta": 753},
        ),
        ("[XTuner][2025-01-01 00:00:00][INFO] Step 1/2 note: text loss: inf", 1, {"loss": math.inf}),
    ],
)
def test_dialects(text, step, values):
    line = parse(text, rank=5)
    assert isinstance(line, StepLine) and line.step == step and line.rank == 5
    assert {key: str(float(value)) for key, value in line.values.items()} == {
        k: str(float(v)) for k, v in values.items()
    }


def test_other_lines():
    assert parse("Traceback (most recent call last):") is None
    assert parse("") is None and parse("[XTuner][2025-99-01 00:00:00][INFO] x") is None
    time = datetime(2025, 1, 1)
    assert parse(format_log("hello Step 1/2", "WARNING", time, 3)) == LogLine("hello Step 1/2", time, 3, "WARNING")


@given(st.text())
def test_no_line_makes_the_parser_fail(text):
    parse(text)
    parse(SAMPLE[:44] + text)


def test_a_very_long_line_is_read_up_to_a_limit():
    line = parse(SAMPLE + "x: 1 " * 400_000)
    assert isinstance(line, StepLine) and line.values["x"] == 1


def test_rank_of_a_file():
    assert [rank_from_name(Path(name)) for name in ("rank3.log", "rank_12.log", "rank.log", "xrank1.log")] == [
        3,
        12,
        None,
        None,
    ]

"""The parser's two ways through a line agree, and neither is slow on any line."""

import math
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.logline import (
    _MAX_VALUES_CHARS,
    LogLine,
    StepLine,
    _parse_dialect,
    format_log,
    format_step,
    parse,
    rank_from_name,
)

HEAD = "[XTuner][RANK 2][2025-08-29 09:17:51][INFO] "
NOW = datetime(2025, 8, 29, 9, 17, 51)

keys = st.from_regex(re.compile(r"[A-Za-z_][A-Za-z0-9_/.]{0,20}", re.ASCII), fullmatch=True)
numbers = st.floats(width=32) | st.integers(-(10**6), 10**6).map(float)


@given(
    st.dictionaries(keys, numbers, min_size=1, max_size=15),
    st.integers(0, 10**12 - 1),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 10**9 - 1),
    st.sampled_from(["INFO", "WARNING", "DEBUG"]),
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1)),
)
def test_any_step_line_goes_round(values, step, rank, epoch, level, moment):
    text = format_step(StepLine(step, 10**12 - 1, values, moment.replace(microsecond=0), rank, epoch, level))
    line = parse(text)
    assert isinstance(line, StepLine)
    assert (line.step, line.rank, line.epoch, line.level) == (step, rank, epoch, level)
    assert line.time == moment.replace(microsecond=0) and list(line.values) == list(values)
    assert format_step(line) == text


@given(st.dictionaries(keys, numbers, min_size=1, max_size=15))
def test_the_fast_way_and_the_dialect_way_agree(values):
    text = format_step(StepLine(1, 2, values, NOW))
    line = parse(text)
    assert isinstance(line, StepLine)
    slow = _parse_dialect(text.partition("Step 1/2 ")[2])
    assert list(map(str, slow.values())) == list(map(str, line.values.values())) and list(slow) == list(line.values)


def test_unknown_keys_keep_order_and_get_four_decimals():
    line = StepLine(1, 2, {"zeta": 1.0, "alpha": 2.5, "lr": 1e-5, "max_memory": 3}, NOW, rank=0)
    assert format_step(line).endswith("Step 1/2 zeta: 1.0000 alpha: 2.5000 lr: 0.000010 max_memory: 3.00 GB ")


@pytest.mark.parametrize(
    ("rest", "values"),
    [
        ("Step 1/2", {}),
        ("Step 1/2, loss: 1.5, lr: 2.0e-05", {"loss": 1.5, "lr": 2e-5}),
        ("Step 1/2 loss: -inf  grad_norm: NaN", {"loss": -math.inf, "grad_norm": math.nan}),
        ("Step 1/2 eta: 2 days, 0:00:01 tgs: 4", {"eta": 172801, "tgs": 4}),
        ("Step 1/2 eta: -2 days, 23:59:58 tgs: 4", {"eta": -86402, "tgs": 4}),
        ("Step 1/2 eta: 0:00:01.500000 tgs: 4", {"eta": 1.5, "tgs": 4}),
        ("Step 1/2 max_memory: 1.5 GB", {"max_memory": 1.5}),
        ("Step 1/2 GBs: 3 tgs: 4 ", {"GBs": 3, "tgs": 4}),
        ("Step 1/2 a: b: 4", {"b": 4}),
        ("Step 1/2 half: 1 of: ", {"half": 1}),
    ],
)
def test_dialects_word_by_word(rest, values):
    line = parse("[XTuner][2025-08-29 09:17:51][INFO] " + rest + "\n")
    assert isinstance(line, StepLine)
    assert list(map(str, line.values.values())) == [str(float(value)) for value in values.values()]
    assert list(line.values) == list(values)


@pytest.mark.parametrize("text", ["Step 1/2x loss: 1", "Step 1 loss: 1", "see Step 1/2", "Epoch Step 1/2", ""])
def test_lines_that_are_almost_steps_are_text(text):
    assert parse(HEAD + text) == LogLine(text, NOW, 2, "INFO")


@pytest.mark.parametrize(
    "text",
    [
        "[XTuner][RANK ٣][2025-08-29 09:17:51][INFO] x",
        "[XTuner][2025-02-30 09:17:51][INFO] x",
        "[XTuner][2025-08-29 09:17:51]",
        " [XTuner][2025-08-29 09:17:51][INFO] x",
    ],
)
def test_heads_that_are_not_ours(text):
    assert parse(text) is None


def test_a_rank_in_the_line_beats_that_of_the_file():
    assert parse(HEAD + "x", rank=7).rank == 2
    assert parse("[XTuner][RANK 0][2025-08-29 09:17:51][INFO] x", rank=7).rank == 0


def test_a_message_cannot_pass_for_a_line_of_its_own():
    forged = format_log("bad file\n[XTuner][2025-01-01 00:00:00][INFO] Step 9/9 loss: 0\r", "ERROR", NOW, 0)
    assert "\n" not in forged and "\r" not in forged
    assert isinstance(parse(forged), LogLine)


def test_a_value_at_the_limit_is_left_out_not_cut():
    cut = (" " + "x: 1 " * 3275).ljust(_MAX_VALUES_CHARS - 4) + "y: 1"
    line = parse(HEAD + "Step 1/2" + cut + "234567 z: 1 ")
    assert isinstance(line, StepLine) and line.values == {"x": 1}


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "Step 1/2 " + "loss: 1.5 " * 100_000,
        HEAD + "Step 1/2 " + "eta: 1 day, " * 80_000,
        HEAD + "Step 1/2 " + "eta: " + "1" * 1_000_000,
        HEAD + "Step 1/2 " + " " * 1_000_000,
        HEAD + "Epoch 1 " * 120_000,
        "[XTuner]" * 120_000,
        "[" * 1_000_000,
    ],
)
def test_a_line_of_a_megabyte_is_parsed(text):
    """An expression that backtracks would take hours here, not milliseconds: the test ends, or it does not."""
    line = parse(text)
    assert line is None or len(getattr(line, "values", ())) <= 2


@pytest.mark.parametrize("name", ["rank3.log.gz", "rank-3.log", "rank٣.log", "rank3.LOG", "rank3.log\n"])
def test_names_that_are_no_rank_logs(name):
    assert rank_from_name(name) is None


def test_rank_of_a_path_in_a_folder():
    assert rank_from_name("logs/rank_12.log") == 12

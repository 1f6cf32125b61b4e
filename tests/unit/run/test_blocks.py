"""Blocks of lines give what the parser of single lines gives, whatever they hold."""

import json
import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.run.blocks import Block, _read_uniform, read_log, read_metrics_block, read_others
from xtuner.run.logline import STEP_KEYS, LogLine, StepLine, format_log, format_step, parse
from xtuner.run.metrics import parse_records

NOW = datetime(2025, 8, 29, 23, 59, 50)
numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0])
any_number = numbers | st.sampled_from([math.nan, math.inf])


def step_text(step, values, rank=0, epoch=None):
    return format_step(StepLine(step, 10**6, values, NOW + timedelta(seconds=step), rank=rank, epoch=epoch))


def rows_of(block: Block):
    """All numbers of a block, as one row a step."""
    return [
        (part.rank, part.steps[index], part.times[index], {key: repr(part.values[key][index]) for key in part.values})
        for part in block.steps
        for index in range(len(part.steps))
    ]


def rows_line_by_line(text, rank=None):
    parsed = [parse(line, rank) for line in text.split("\n")]
    return [
        (
            line.rank or 0,
            line.step,
            line.time.timestamp(),
            {key: repr(float(value)) for key, value in line.values.items()},
        )
        for line in parsed
        if isinstance(line, StepLine)
    ]


def by_rank(rows):
    return sorted(rows, key=lambda row: row[0])


@given(st.lists(st.lists(numbers, min_size=11, max_size=11), min_size=8, max_size=30), st.none() | st.integers(0, 99))
def test_our_own_lines_are_read_as_columns(rows, rank):
    lines = [step_text(n, dict(zip(STEP_KEYS, row, strict=True)), rank) for n, row in enumerate(rows)]
    text = "\n".join(lines) + "\n"
    assert _read_uniform(text.encode(), 5) is not None, "this is the fast way, nothing else is as fast"
    assert rows_of(read_log(text.encode(), 5)) == rows_line_by_line(text, 5)


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            step_text,
            st.integers(0, 10**6),
            st.dictionaries(st.sampled_from(["loss", "lr", "max_memory", "a1.b-2", "e2e_tgs"]), any_number, max_size=3),
            st.sampled_from([0, 3, None]),
            st.sampled_from([None, 1]),
        )
        | st.sampled_from(
            [
                "",
                "Traceback (most recent call last):",
                "[XTuner][2025-08-29 09:17:51][WARNING] Step by step",
                "[XTuner][2025-08-29 09:17:51][INFO] Epoch 1 Step 12/100 loss: 1.5, eta: 1 day, 2:03:04 tgs: 3",
                "[XTuner][2025-08-29 09:17:51][INFO] Step 1/2 loss: 1.2.3 lr: - tgs: 5",
                "[XTuner][2025-08-29 09:17:51][INFO] Step 1/2 loss:  lr: 2 3",
                "[XTuner][2025-08-29 09:17:51][INFO] Step 1/2 loss: 1e5 lr: 1e-5",
                "[XTuner][2025-99-29 09:17:61][INFO] Step 1/2 loss: 1",
                "[XTuner][2025-08-29 09:17:61][INFO] Step -1/2 loss: 1",
                "[XTuner][2025-08-29 09:17:51][INFO] Step 1234567890123/2 loss: 1",
            ]
        ),
        max_size=20,
    ),
    st.none() | st.integers(0, 4),
)
def test_any_mix_of_lines_gives_what_single_lines_give(lines, rank):
    """Wherever a block is cut: hypothesis shrinks to the two lines that are wrongly taken for alike."""
    text = "".join(line + "\n" for line in lines)
    block = read_log(text.encode(), rank)
    assert by_rank(rows_of(block)) == by_rank(rows_line_by_line(text, rank))
    others = [line for line in lines if line and not isinstance(parse(line), StepLine)]
    assert [line.content if isinstance(line.content, str) else line.content.text for line in block.others] == [
        parsed.text if isinstance(parsed := parse(line), LogLine) else line for line in others
    ]
    for line in block.others:
        said = line.content if isinstance(line.content, str) else line.content.text
        assert text.encode()[line.begin :].split(b"\n")[0].decode().endswith(said), "where it stands"


@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail(content):
    head = step_text(1, {"loss": 1.0}).encode()
    for block in (content, head + content + b"\n", head + b"\n" + content + b"\n" + head + b"\n"):
        read_log(block, None)
        read_others(block)
        read_metrics_block(block, 0)


@pytest.mark.parametrize(
    "line",
    [b"[XTuner][2025-08-29 09:17:51][INFO] Step 1/2 " + b"x: 1 " * 200_000, b"\0" * 2**20, b"[" * 2**20, b"-" * 2**20],
)
def test_a_line_of_a_megabyte_is_read(line):
    assert len(read_log(line + b"\n" + line + b"\n", 0).steps) <= 2


def test_steps_days_apart_and_over_midnight():
    text = "".join(step_text(step, {"loss": 1.0}) + "\n" for step in (1, 9, 10, 11, 500_000))
    times = read_log(text.encode(), None).steps[0].times
    assert list(times) == [(NOW + timedelta(seconds=step)).timestamp() for step in (1, 9, 10, 11, 500_000)]


def test_the_ranks_of_a_console_are_told_apart():
    text = "".join(step_text(step, {"loss": step + rank}, rank) + "\n" for step in range(5) for rank in range(3))
    block = read_log(text.encode(), None)
    assert [(part.rank, list(part.values["loss"])) for part in block.steps] == [
        (rank, [step + rank for step in range(5)]) for rank in range(3)
    ]


def test_others_alone():
    warning = format_log("low on memory", "WARNING", NOW, 3)
    text = f"{step_text(1, {'loss': 1})}\n{warning}\n  File x\r\n{step_text(2, {'loss': 1})}\n"
    first, second = read_others(text.encode())
    assert first.content == LogLine("low on memory", NOW, 3, "WARNING") and second.content == "  File x"
    assert text[second.begin :].startswith("  File x")


def test_records_of_steps():
    lines = [
        {"step": 1, "total_steps": 9, "timestamp": 5.5, "loss": "nan", "note": "x", "is_best": True},
        {"step": 2, "total_steps": 9, "timestamp": 6.5, "loss": 1.25},
        {"kind": "other"},
        {"step": 3, "loss": 2.0, "lr": 1},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode() + b"{broken\n\xff\n[]\n"
    first, second = read_metrics_block(data, 7)
    assert (first.rank, list(first.steps), list(first.times), first.total_steps) == (7, [1, 2], [5.5, 6.5], 9)
    assert list(map(repr, first.values["loss"])) == ["nan", "1.25"] and list(first.values) == ["loss"]
    assert list(second.values) == ["loss", "lr"] and math.isnan(second.times[0])


def test_one_record_a_value_becomes_one_a_step():
    lines = [{"loss": 1.0, "step": 1}, {"lr": 2.0, "step": 1}, {"loss": 3.0, "step": 2}, {"lr": 4.0, "step": 2}]
    (block,) = read_metrics_block("".join(json.dumps(line) + "\n" for line in lines).encode(), 0)
    assert list(block.steps) == [1, 2] and {key: list(column) for key, column in block.values.items()} == {
        "loss": [1, 3],
        "lr": [2, 4],
    }


def test_a_broken_record_does_not_hide_its_neighbours():
    assert parse_records(b'{"a": 1}\n{"b"\n\n{"c": "inf"}\n3\n') == [{"a": 1}, {"c": math.inf}]
    assert parse_records(b'{"a": 1}, {"b": 2}\n') == [], "a line is one record"

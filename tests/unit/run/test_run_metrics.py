"""Metrics files after full disks, kills and other writers."""

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.metrics import MetricsWriter, read_metrics, without_infinities


def test_records_are_there_at_once_each_by_one_write(tmp_path, monkeypatch):
    path = tmp_path / "rank0.jsonl"
    writer = MetricsWriter(path)
    sizes, write = [], os.write

    def counting_write(descriptor, data):
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counting_write)
    for step in range(3):
        writer.write({"step": step})
        assert list(read_metrics(path))[-1] == {"step": step}
    writer.close()
    writer.close()
    assert len(sizes) == 3 and sum(sizes) == path.stat().st_size


def test_a_record_after_a_killed_writer_stands_alone(tmp_path):
    path = tmp_path / "rank0.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    writer = MetricsWriter(path)
    writer.write({"step": 3})
    writer.close()
    assert list(read_metrics(path)) == [{"step": 1}, {"step": 3}]


def test_a_full_disk_harms_one_record_only(tmp_path, monkeypatch):
    path = tmp_path / "rank0.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})
    write = os.write
    left = [5]

    def full(descriptor, data):
        if not left[0]:
            raise OSError(28, "No space left on device")
        num_written = write(descriptor, data[: left[0]])
        left[0] -= num_written
        return num_written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        writer.write({"step": 2})
    monkeypatch.setattr(os, "write", write)
    writer.write({"step": 3})
    writer.close()
    assert list(read_metrics(path)) == [{"step": 1}, {"step": 3}]


def test_an_unfinished_tail_and_broken_lines_are_left_out(tmp_path):
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(b'{"a": 1}\n\n[1]\n\xff\n' + b"[" * 100_000 + b'\n{"b": "inf", "c": "text"}\n{"d": 4}')
    assert list(read_metrics(path)) == [{"a": 1}, {"b": math.inf, "c": "text"}]


@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.booleans() | st.none(), max_size=8))
def test_any_numbers_go_round_as_strict_json(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("metrics") / "m.jsonl"
    writer = MetricsWriter(path)
    writer.write(record)
    writer.close()
    json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (back,) = read_metrics(path)
    assert {key: str(value) for key, value in back.items()} == {key: str(value) for key, value in record.items()}


def test_nested_values_are_strict_json_too():
    assert without_infinities({"a": [math.nan, {"b": -math.inf}], "c": (1.5, "x")}) == {
        "a": ["nan", {"b": "-inf"}],
        "c": [1.5, "x"],
    }

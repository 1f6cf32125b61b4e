"""Files of the run directory: atomic, exclusive, readable when half of them are broken."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.errors import EnvironmentFault
from xtuner.run.atomic import atomic_write, read_json, write_json
from xtuner.run.index import read_index, rebuild_index
from xtuner.run.layout import RunDir, check_work_dir, list_runs, point_latest
from xtuner.run.metrics import MetricsWriter, read_metrics
from xtuner.run.record import describe_run
from xtuner.run.status import StatusBeat, judge, read_status, start_status, write_status
from xtuner.run.tail import MAX_LINE_BYTES, FileTail
from xtuner.run.text import visible


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, "new")
    assert read_json(path) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


def test_a_killed_writer_never_leaves_half_a_file(tmp_path):
    """The control is the plain rewrite next to it, which does leave unreadable files."""
    program = (
        "import json, sys, pathlib\nfrom xtuner.run.atomic import write_json\n"
        "safe, plain = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])\nprint('go', flush=True)\n"
        "value = {'numbers': list(range(20000))}\ntext = json.dumps(value)\n"
        "while True:\n    write_json(safe, value)\n    for _ in range(150): plain.write_text(text)\n"
    )
    num_broken_plain = 0
    for attempt in range(60):
        if attempt >= 12 and num_broken_plain:
            break
        safe, plain = tmp_path / f"safe{attempt}", tmp_path / f"plain{attempt}"
        writer = subprocess.Popen([sys.executable, "-c", program, str(safe), str(plain)], stdout=subprocess.PIPE)
        assert writer.stdout and writer.stdout.readline()
        while not plain.exists():
            time.sleep(0.001)
        time.sleep(0.005 + 0.003 * (attempt % 12))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert len(read_json(safe)["numbers"]) == 20000
        try:
            read_json(plain)
        except ValueError:
            num_broken_plain += 1
    assert num_broken_plain > 0, "the control must break, or the kills prove nothing"


def test_runs_are_made_exclusively_and_listed_in_order(tmp_path):
    runs = [RunDir.create(tmp_path / "work") for _ in range(5)]
    assert len({run.name for run in runs}) == 5
    (tmp_path / "work" / "notes").mkdir()
    assert [run.name for run in list_runs(tmp_path / "work")] == sorted(run.name for run in runs)


def test_a_work_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for work_dir in (tmp_path / "file", tmp_path / "file" / "inside", Path("/proc/xtuner")):
        with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
            check_work_dir(work_dir)
        assert "--work-dir" in caught.value.hint
        with pytest.raises(EnvironmentFault):
            RunDir.create(work_dir)
    check_work_dir(tmp_path / "new" / "deep")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_latest_link_moves(tmp_path):
    run = RunDir.create(tmp_path)
    for step in (1, 2):
        run.export(step).mkdir()
        point_latest(run, step)
    assert run.latest_export.resolve() == run.export(2)


def test_index_is_rebuilt_from_the_runs_whatever_is_broken(tmp_path):
    good, broken = RunDir.create(tmp_path), RunDir.create(tmp_path)
    write_json(good.run_json, {"created": "now", "model": "m", "dataset": "d"})
    write_status(good, replace(start_status(10), state="finished", step=10))
    for step in (2, 10):
        good.export(step).mkdir()
    broken.run_json.write_text("{")
    broken.status_json.write_text("[1]")
    rebuild_index(tmp_path)
    (tmp_path / ".xtuner").write_text('{"schema": 1, "ru')
    entries = {entry["name"]: entry for entry in read_index(tmp_path)["runs"]}
    assert entries[good.name]["state"] == "finished" and entries[good.name]["exports"] == ["hf-2", "hf-10"]
    assert entries[broken.name]["state"] == "unknown"


def test_status_is_judged_by_process_and_heartbeat(tmp_path):
    status = start_status(10)
    assert judge(status, status.heartbeat_at + 1) == "starting"
    assert judge(status, status.heartbeat_at + 61) == "lost"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert judge(replace(status, pid=child.pid), status.heartbeat_at) == "lost"
    assert judge(replace(status, pid=child.pid, host="elsewhere"), status.heartbeat_at) == "starting"
    assert judge(replace(status, state="failed"), status.heartbeat_at + 999) == "failed"
    assert judge(None, 0) == "unknown"


def test_beat_writes_and_survives_a_deleted_directory(tmp_path):
    run = RunDir.create(tmp_path)
    beat = StatusBeat(run, start_status(10), interval_s=0.02)
    beat.update(state="running", step=3)
    assert read_status(run).state == "running"
    first = read_status(run).heartbeat_at
    deadline = time.monotonic() + 20
    while read_status(run).heartbeat_at == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_status(run).heartbeat_at > first
    run.path.rename(tmp_path / "gone")
    beat.update(state="finished")
    beat.stop()


def test_metrics_go_round_with_what_json_cannot_say(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write({"step": 1, "loss": 1 / 3})
    writer.write({"step": 2, "loss": float("nan")})
    writer.close()
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('not json\n{"step": 3, "lo')
    for line in (tmp_path / "m.jsonl").read_text().splitlines()[:2]:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    first, second = read_metrics(tmp_path / "m.jsonl")
    assert first == {"step": 1, "loss": 1 / 3} and second["loss"] != second["loss"]


def test_run_record_holds_no_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canaryCanaryCanaryCanary")
    record = describe_run(["xtuner", "sft"], {"load_from": "m", "dataset": "d"})
    assert record["model"] == "m" and record["versions"]["torch"] and "hf_canary" not in json.dumps(record)


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))), st.data())
def test_tail_gives_the_same_lines_for_any_chunks(tmp_path_factory, lines, data):
    path = tmp_path_factory.mktemp("tail") / "rank0.log"
    content = "".join(line + "\n" for line in lines).encode()
    tail, seen, position = FileTail(path), [], 0
    assert tail.read_lines() == []
    while position < len(content):
        size = data.draw(st.integers(1, len(content) - position))
        with path.open("ab") as file:
            file.write(content[position : position + size])
        position += size
        seen += tail.read_lines(max_bytes=data.draw(st.integers(1, 64)))
    while more := tail.read_lines():
        seen += more
    assert seen == lines


def test_tail_survives_truncation_replacement_and_bytes(tmp_path):
    path = tmp_path / "log"
    tail = FileTail(path)
    path.write_bytes(b"one\ntwo\nhal")
    assert tail.read_lines() == ["one", "two"]
    path.write_bytes(b"new\n")
    assert tail.read_lines() == ["new"]
    (tmp_path / "other").write_bytes(b"\xff\xfe rotated\n")
    (tmp_path / "other").rename(path)
    assert tail.read_lines() == ["\\xff\\xfe rotated"]
    with path.open("ab") as file:
        file.write(b"x" * (3 * MAX_LINE_BYTES) + b"\nafter\n")
    lines = []
    for _ in range(8):
        lines += tail.read_lines()
    assert lines[0].endswith("…[cut]") and len(lines[0]) < MAX_LINE_BYTES + 20 and lines[1:] == ["after"]


def test_control_characters_become_visible():
    assert visible("\x1b]0;title\x07 \x9b2J \u202eabc\u2066 \ud800 好\tok\n") == (
        "\\x1b]0;title\\x07 \\x9b2J \\u202eabc\\u2066 \\ud800 好\tok\n"
    )

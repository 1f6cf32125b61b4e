"""From files to series: whatever order and pieces the files come in, what is known in the end is the same."""

import json
import os
import random
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.run import feed as feed_module
from xtuner.run import history
from xtuner.run.discover import discover
from xtuner.run.events import Gap, Said, Steps
from xtuner.run.feed import Feed
from xtuner.run.layout import RunDir
from xtuner.run.logline import LogLine, StepLine, format_log, format_step
from xtuner.run.store import RunStore

NOW = datetime(2025, 8, 29, 9, 17, 51)


def step_line(step, rank=0, loss=None, **values):
    numbers = {"data_time": 0.5, "time": 1.5, "text_tokens": 100.0, "total_loss": loss if loss is not None else step}
    return format_step(StepLine(step, 10_000, {**numbers, **values}, NOW + timedelta(seconds=step), rank=rank)) + "\n"


def record(step, loss, **values):
    return (
        json.dumps({"step": step, "total_steps": 10_000, "timestamp": 1e9 + step, "total_loss": loss, **values}) + "\n"
    )


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path)


def read_all(feed, store, num_polls=500):
    events = []
    for number in range(num_polls):
        new = feed.poll(0)
        store.apply(new, float(number))
        events += new
        if not feed.has_backlog and not new:
            break
    return events


def follow(path):
    (files,) = discover(path)
    feed, store = Feed(files), RunStore(files)
    events = read_all(feed, store)
    return feed, store, events


def loss_of(store, rank=0, key="total_loss"):
    xs, ys = store.series(rank, key).samples()
    return dict(zip(map(int, xs), ys, strict=True))


@pytest.fixture
def small_parts(monkeypatch):
    """Files of kilobytes are read as those of gigabytes: newest part first, then the past in many slices."""
    monkeypatch.setattr(feed_module, "_NEWEST_BYTES", 2000)
    monkeypatch.setattr(feed_module, "_MIN_NEWEST_BYTES", 2000)
    monkeypatch.setattr(feed_module, "SLICE_BYTES", 1500)
    monkeypatch.setattr(history, "SLICE_BYTES", 1500)


def test_the_newest_part_of_each_file_comes_before_the_past_of_any(run, small_parts):
    for rank in range(3):
        run.rank_log(rank).write_text("".join(step_line(step, rank) for step in range(1, 101)))
    feed, store, events = follow(run.path)
    order = [(event.block.rank, event.is_history) for event in events if isinstance(event, Steps)]
    assert order[:3] == [(rank, False) for rank in range(3)]
    assert sum(is_history for _, is_history in order) > 20 and feed.is_whole
    for rank in range(3):
        assert loss_of(store, rank) == {step: step for step in range(1, 101)}
    assert store.num_tokens() == 3 * 100 * 100 and store.total_steps == 10_000
    assert store.step == 100 and store.eta_s() == 2.0 * 9900


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=4), st.data())
def test_runs_that_go_back_written_in_any_pieces(tmp_path_factory, small_parts, attempts, data):
    """Each attempt begins at a step and goes on for some; the last word counts, and what followed it is void."""
    run = RunDir.create(tmp_path_factory.mktemp("runs"))
    has_metrics, expected, lines, records = data.draw(st.booleans()), {}, [], []
    for attempt, (first, count) in enumerate(attempts):
        expected = {step: loss for step, loss in expected.items() if step < first}
        for step in range(first, first + count):
            loss = step + attempt / 8 + 1e-7
            lines.append(step_line(step, loss=loss))
            records.append(record(step, loss, token_accuracy=0.5))
            expected[step] = loss if has_metrics else float(f"{loss:.3f}")
    num_first = data.draw(st.integers(0, len(lines)))
    run.rank_log(0).write_text("".join(lines[:num_first]))
    if has_metrics:
        run.rank_metrics(0).write_text("".join(records[:num_first]))
    (files,) = discover(run.path)
    feed, store = Feed(files), RunStore(files)
    read_all(feed, store, data.draw(st.integers(1, 200)))
    for line, precise in zip(lines[num_first:], records[num_first:], strict=True):
        for path, text in ((run.rank_log(0), line), (run.rank_metrics(0), precise)):
            if path == run.rank_log(0) or has_metrics:
                with path.open("a") as file:
                    file.write(text)
                if data.draw(st.booleans()):
                    store.apply(feed.poll(0), 0.0)
    feed._looked_at = None
    read_all(feed, store)
    assert loss_of(store) == pytest.approx(expected, abs=1e-12)


def test_the_text_log_is_the_live_edge_where_metrics_come_late(tmp_path):
    """The older layout: a tracker that is written out every half minute."""
    logs = tmp_path / "20250829091740" / "logs"
    tracker = logs / "exp_tracking" / "rank0" / "tracker.jsonl"
    tracker.parent.mkdir(parents=True)
    (logs / "rank0.log").write_text("".join(step_line(step, None, loss=step + 0.0004) for step in range(1, 11)))
    tracker.write_text("".join(record(step, step + 0.0004) for step in range(1, 8)))
    feed, store, _ = follow(tmp_path)
    assert loss_of(store) == {**{step: step + 0.0004 for step in range(1, 8)}, 8: 8, 9: 9, 10: 10}
    with tracker.open("a") as file:
        file.write(record(8, 8.0004) + record(9, 9.0004))
    store.apply(feed.poll(), 0.0)
    assert loss_of(store) == {**{step: step + 0.0004 for step in range(1, 10)}, 10: 10}
    assert not store.rewinds


def test_rewinds_are_told(run, small_parts):
    run.rank_log(0).write_text("".join(step_line(step) for step in [*range(1, 51), *range(31, 100), *range(91, 95)]))
    _, store, _ = follow(run.path)
    assert sorted((rewind.from_step, rewind.to_step) for rewind in store.rewinds) == [(50, 31), (99, 91)]
    assert store.step == 94 and sorted(loss_of(store)) == list(range(1, 95))


def test_other_lines_say_where_they_stand(run):
    warning = format_log("careful", "WARNING", NOW, 0)
    text = f"{step_line(1)}{warning}\nTraceback (most recent call last):\n{step_line(2)}"
    run.rank_log(0).write_text(text)
    _, store, events = follow(run.path)
    said = [event for event in events if isinstance(event, Said)]
    assert [text[event.begin :].split("\n")[0] for event in said] == [warning, "Traceback (most recent call last):"]
    assert said[0].content == LogLine("careful", NOW, 0, "WARNING") and store.loud == said == list(store.recent)
    assert store.log_indices[run.rank_log(0)].num_lines == 4


def test_truncated_replaced_and_late_files(run):
    path = run.rank_log(0)
    path.write_text("".join(step_line(step) for step in range(1, 6)))
    now = [0.0]
    (files,) = discover(run.path)
    feed, store = Feed(files, clock=lambda: now[0]), RunStore(files)
    read_all(feed, store)
    path.write_text(step_line(3, loss=30))
    events = read_all(feed, store)
    assert [event for event in events if isinstance(event, Gap)] == [Gap(path, 0)] and list(store.gaps)
    assert loss_of(store) == {1: 1, 2: 2, 3: 30}
    run.rank_log(1).write_text(step_line(1, 1))
    assert not feed.poll() and list(store.files.logs) == [0]
    now[0] = 6.0
    read_all(feed, store)
    assert loss_of(store, 1) == {1: 1} and list(store.files.logs) == [0, 1]


def test_files_that_go_away_are_named_and_the_last_values_stay(run, tmp_path):
    run.rank_log(0).write_text(step_line(1))
    feed, store, _ = follow(run.path)
    run.path.rename(tmp_path / "away")
    assert feed.poll() == [] and list(feed.unreadable) == [run.rank_log(0)]
    assert loss_of(store) == {1: 1}
    (tmp_path / "away").rename(run.path)
    with run.rank_log(0).open("a") as file:
        file.write(step_line(2))
    store.apply(feed.poll(), 0.0)
    assert loss_of(store) == {1: 1, 2: 2} and not feed.unreadable


def test_a_thousand_files_and_few_descriptors(run, monkeypatch):
    for rank in range(300):
        run.rank_log(rank).write_text(step_line(7, rank))
    open_now = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda *args: open_now.append(len(os.listdir("/proc/self/fd"))) or real_open(*args))
    _, store, _ = follow(run.path)
    assert len(store.ranks) == 300 and max(open_now) <= min(open_now) + 2 and len(open_now) >= 300


def test_a_poll_ends_when_its_budget_does(run):
    """The clock goes on by a second at each look: each poll does one slice."""
    for rank in range(5):
        run.rank_log(rank).write_text(step_line(1, rank))
    ticks = iter(range(10_000))
    (files,) = discover(run.path)
    feed = Feed(files, clock=lambda: float(next(ticks)))
    polls = [feed.poll(0.5) for _ in range(5)]
    assert [len([event for event in events if isinstance(event, Steps)]) for events in polls] == [1] * 5, (
        "one file a poll"
    )


def test_noise_does_not_end_it(run):
    rng = random.Random(0)
    run.rank_log(0).write_bytes(rng.randbytes(200_000) + b"\n" + step_line(1).encode() + rng.randbytes(100_000))
    run.rank_metrics(0).write_bytes(rng.randbytes(100_000) + b"\n" + record(1, 1.5).encode() + b'{"step": 2, "lo')
    _, store, _ = follow(run.path)
    assert loss_of(store) == {1: 1.5}


def test_a_console_with_all_ranks_mixed(tmp_path):
    path = tmp_path / "console.log"
    path.write_text("W0829 torchrun says\n" + "".join(step_line(s, r) for s in range(1, 4) for r in range(2)))
    _, store, _ = follow(path)
    assert {rank: loss_of(store, rank) for rank in store.ranks} == {0: {1: 1, 2: 2, 3: 3}, 1: {1: 1, 2: 2, 3: 3}}


def test_a_run_directory_is_known_besides_its_logs(run):
    run.eval_metrics.write_text(json.dumps({"kind": "eval", "step": 5, "eval_loss": 1.5}) + "\n")
    run.export(10).mkdir()
    (run.export(10) / "model.safetensors").write_bytes(b"x" * 100)
    (run.path / "hf-latest").symlink_to("hf-10")
    (run.checkpoints / "step-00000005" / "dcp").mkdir(parents=True)
    _, store, _ = follow(run.path)
    store.refresh(0.0)
    assert store.evaluations[5]["eval_loss"] == 1.5 and store.state == "unknown"
    assert [(a.kind, a.step, a.num_bytes) for a in store.artifacts] == [("checkpoint", 5, 0), ("export", 10, 100)]


def contents_of(store):
    return {
        (number, key): series.samples() for number, rank in store.ranks.items() for key, series in rank.series.items()
    }


@pytest.fixture
def long_run(run, small_parts, monkeypatch):
    """Its past is read in processes: two ranks with text and metrics, a rewind, a traceback, and bytes of no text."""
    monkeypatch.setattr(history, "_MANY_BYTES", 0)
    monkeypatch.setattr(history, "_PROCESS_SLICE_BYTES", 4000)
    steps = [*range(1, 200), *range(150, 400)]
    for rank in range(2):
        lines = [step_line(step, rank, loss=step + rank) for step in steps]
        lines[30] += "Traceback (most recent call last):\n\xff\n"
        lines[90] += "x" * 20_000 + "\n"  # of which no slice holds the whole
        run.rank_log(rank).write_bytes("".join(lines).encode("latin-1"))
    run.rank_metrics(1).write_text("".join(record(step, step + 1 / 3) for step in steps))
    return run


def read_in_processes(path, at_first_slice=lambda feed: None):
    """What a feed with processes gives, however long they take to start."""
    (files,) = discover(path)
    feed, store = Feed(files, num_processes=2), RunStore(files)
    deadline = time.monotonic() + 120
    is_first = True
    while not feed.is_whole and time.monotonic() < deadline:
        events = feed.poll()
        store.apply(events, 0.0)
        if is_first and any(isinstance(event, Steps) and event.is_history for event in events):
            is_first = False
            at_first_slice(feed)
    feed.close()
    assert feed.is_whole and not is_first
    return feed, store


def places_of(store):
    """What was said, file by file: which file comes first is a matter of speed."""
    return sorted((said.path, said.begin, said.content) for said in store.loud)


def test_processes_read_the_same(long_run):
    _, expected, _ = follow(long_run.path)
    processes = []
    feed, store = read_in_processes(long_run.path, lambda feed: processes.extend(feed._history._processes))
    assert contents_of(store) == contents_of(expected) and len(contents_of(store)) == 10
    assert sorted(store.rewinds) == sorted(expected.rewinds)
    assert places_of(store) == places_of(expected) and len(places_of(store)) == 6
    assert len(processes) == 2 and not feed._history._processes
    assert all(process._process.returncode is not None for process in processes)


def test_reading_leaves_the_processor_to_the_screen_and_to_other_sessions(long_run):
    seen = []

    def look(feed):
        process = next(
            process for process in feed._history._processes if process.num_asked < 2 or process.connection.poll(60)
        )
        groups = Path(f"/proc/{process._process.pid}/autogroup")
        seen.append(os.getpriority(os.PRIO_PROCESS, process._process.pid) - os.getpriority(os.PRIO_PROCESS, 0))
        seen.append(groups.read_text().split()[-1] if groups.exists() else "10")

    read_in_processes(long_run.path, look)
    assert seen == [10, "10"]


def test_what_a_killed_process_had_is_read_on_here(long_run):
    _, expected, _ = follow(long_run.path)

    def kill(feed):
        for process in feed._history._processes:
            os.kill(process._process.pid, signal.SIGKILL)

    _, store = read_in_processes(long_run.path, kill)
    assert contents_of(store) == contents_of(expected)
    assert len(store.loud) == len(expected.loud)


def test_without_processes_to_be_had_all_is_read_here(long_run, monkeypatch):
    _, expected, _ = follow(long_run.path)

    def refuse(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    _, store = read_in_processes(long_run.path)
    assert contents_of(store) == contents_of(expected)


def test_a_file_that_is_replaced_while_a_process_reads_it_leaves_nothing_behind(long_run):
    log, whole = long_run.rank_log(0), long_run.rank_log(0).read_bytes()

    def replace(feed):
        log.write_bytes(whole[: len(whole) // 8])

    _, store = read_in_processes(long_run.path, replace)
    _, expected, _ = follow(long_run.path)
    assert contents_of(store)[1, "total_loss"] == contents_of(expected)[1, "total_loss"]
    assert [gap.path for gap in store.gaps] == [log]


def test_processes_end_with_the_feed_and_with_their_parent(long_run):
    (files,) = discover(long_run.path)
    feed = Feed(files, num_processes=2)
    while not feed._history._processes:
        feed.poll(0)
    processes = list(feed._history._processes)
    processes[0].connection.close()  # as when the parent dies
    assert processes[0]._process.wait(60) == 0
    feed.close()
    assert processes[1]._process.returncode is not None

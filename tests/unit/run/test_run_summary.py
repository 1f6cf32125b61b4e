"""Where a run stands, from its files: healthy, broken, huge."""

import json
import math
import time
from dataclasses import replace
from datetime import datetime

import pytest

from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, format_log, format_step
from xtuner.run.status import start_status, write_status
from xtuner.run.summary import RunSummary, rank_logs, summarise

NOW = datetime(2025, 8, 29, 9, 17, 51)


def step_line(step, rank=0, total_steps=200, **values):
    numbers = {"data_time": 0.5, "lr": 2e-5, "time": 1.5, "reduced_llm_loss": 2.0, "max_memory": 10.0, "tgs": 100.0}
    return format_step(StepLine(step, total_steps, {**numbers, **values}, NOW, rank=rank)) + "\n"


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path)


def test_numbers_of_a_running_run(run):
    status = replace(start_status(200), state="running")
    write_status(run, status)
    run.rank_log(0).write_text("".join(step_line(step, reduced_llm_loss=float(step)) for step in range(1, 101)))
    run.rank_log(1).write_text("".join(step_line(step, 1, max_memory=12.5, tgs=50.0) for step in range(1, 100)))
    summary = summarise(run, status.started_at + 30)
    assert (summary.state, summary.step, summary.total_steps) == ("running", 100, 200)
    assert summary.eta_s == pytest.approx(2.0 * 100)
    assert summary.elapsed_s == pytest.approx(30)
    assert (summary.loss, summary.recent_loss) == (100, sum(range(81, 101)) / 20)
    assert (summary.lr, summary.tokens_per_s, summary.max_memory_gib) == (2e-5, 150, 12.5)
    assert summary.last_steps == {0: 100, 1: 99}


def test_the_time_left_is_the_median_of_the_last_fifty(run):
    times = [1000.0] * 60 + [1.0] * 26 + [500.0] * 24
    lines = [step_line(step + 1, time=seconds, data_time=0.0) for step, seconds in enumerate(times)]
    run.rank_log(0).write_text("".join(lines))
    assert summarise(run, 0).eta_s == pytest.approx(1.0 * 90)


@pytest.mark.parametrize(("state", "has_eta"), [("failed", False), ("stopped", False), ("finished", True)])
def test_a_run_that_ended_has_no_more_time(run, state, has_eta):
    status = replace(start_status(200), state=state, heartbeat_at=time.time() + 7)
    write_status(run, status)
    run.rank_log(0).write_text(step_line(200))
    summary = summarise(run, status.started_at + 9999)
    assert summary.eta_s == (0 if has_eta else None)
    assert summary.elapsed_s == pytest.approx(7, abs=1)


def test_steps_said_again_after_a_checkpoint_count_once(run):
    steps = [1, 2, 3, 4, 3]
    run.rank_log(0).write_text("".join(step_line(s, reduced_llm_loss=float(n)) for n, s in enumerate(steps)))
    summary = summarise(run, 0)
    assert summary.step == 3 and summary.loss == 4 and summary.recent_loss == pytest.approx((0 + 1 + 4) / 3)


def test_nothing_there_and_everything_broken(run):
    empty = summarise(run, 0)
    assert (empty.state, empty.step, empty.eta_s, empty.last_steps) == ("unknown", 0, None, {})
    run.rank_log(0).write_bytes(b"\xff\n[XTuner]\n" + step_line(1).encode()[:-5])
    run.rank_log(1).mkdir()
    (run.logs / "rank2.log").symlink_to("nowhere")
    assert summarise(run, 0) == empty
    run.status_json.write_text("{")
    assert summarise(RunDir(run.path / "gone"), 0).state == "unknown"


def test_numbers_that_are_none_are_said_as_words(run):
    run.rank_log(0).write_text(step_line(1) + step_line(2, reduced_llm_loss=math.nan, time=math.inf))
    summary = summarise(run, 0)
    assert math.isnan(summary.loss) and summary.eta_s == pytest.approx(2.0 * 198)
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert '"loss": "nan"' in text and '"last_steps": {"0": 2}' in text


def test_other_dialects_are_read(run):
    line = (
        "[XTuner][2025-08-29 09:17:51][INFO] Epoch 1 Step 12/100 lr: 2.0e-05 time: 1.0, loss: 1.5, eta: 1 day, 2:03:04"
    )
    (run.logs / "rank_3.log").write_text(line + "\n")
    (run.logs / "rank_10.log").write_text(line + "\n")
    summary = summarise(run, 0)
    assert list(rank_logs(run)) == [3, 10]
    assert (summary.step, summary.loss, summary.lr, summary.eta_s) == (12, 1.5, 2e-5, 88)
    assert summary.tokens_per_s is None and summary.max_memory_gib is None


def test_a_rank_that_ends_in_a_traceback_still_tells_its_last_step(run):
    trace = "".join(format_log(f"  File {number}", "ERROR", NOW, 0) + "\n" for number in range(500))
    run.rank_log(0).write_text(step_line(7) + trace)
    assert summarise(run, 0).last_steps == {0: 7}


def test_logs_of_gigabytes_are_read_from_their_end(run):
    with run.rank_log(0).open("wb") as file:
        file.truncate(10 * 2**30)  # sparse
        file.seek(0, 2)
        file.write(b"\n" + step_line(9).encode())
    assert summarise(run, 0).step == 9


def test_a_waiting_summary_is_plain_json():
    assert RunSummary(run=None, state="waiting").to_json()["state"] == "waiting"

"""Each alert: there when it should be, with its evidence, and not there in a healthy run."""

import json
import math
import os
from dataclasses import replace
from datetime import datetime

import pytest

from xtuner.run.discover import discover
from xtuner.run.facts import RunFacts
from xtuner.run.feed import Feed
from xtuner.run.health import Health
from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, format_log, format_step
from xtuner.run.metrics import MetricsWriter
from xtuner.run.status import start_status, write_status
from xtuner.run.store import RunStore
from xtuner.run.supervision import supervise_here

BEGUN = datetime(2025, 8, 29, 9, 0, 0)
ROOMY = 2**50


def numbers(step, **values):
    loss = 3.0 + 5.0 / step
    return {
        "data_time": 0.05,
        "time": 2.0,
        "reduced_llm_loss": loss,
        "reserved_memory": 20.0,
        "tgs": 1000.0,
        **values,
    }


class Scene:
    """A run on disk, and someone who looks at it."""

    def __init__(self, work_dir, facts=None, free=ROOMY):
        self.run = RunDir.create(work_dir)
        self.now = BEGUN.timestamp()
        self.set_state("running")
        (files,) = discover(self.run.path)
        self.feed, self.store = Feed(files, clock=lambda: self.now), RunStore(files)
        self.health = Health(self.store, facts or RunFacts(), free_bytes=lambda path: free)

    def set_state(self, state, **changes):
        write_status(self.run, replace(start_status(10_000), state=state, heartbeat_at=self.now, **changes))

    def step(self, steps, num_ranks=1, ranks=None, change=lambda rank, step: {}):
        for rank in ranks or range(num_ranks):
            with self.run.rank_log(rank).open("a") as file:
                for step in steps:
                    time = datetime.fromtimestamp(self.now)
                    line = StepLine(step, 10_000, numbers(step, **change(rank, step)), time, rank=rank)
                    file.write(format_step(line) + "\n")
        self.look()

    def say(self, text, level="INFO"):
        with self.run.rank_log(0).open("a") as file:
            file.write(format_log(text, level, datetime.fromtimestamp(self.now), 0) + "\n")
        self.look()

    def look(self):
        for _ in range(10):
            self.now += 0.6
            self.store.apply(self.feed.poll(10), self.now)

    def alerts(self):
        self.store.refresh(self.now)
        return {alert.kind: alert for alert in self.health.check(self.now)}


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_a_healthy_run_has_no_alerts(tmp_path):
    scene = Scene(tmp_path, RunFacts(vocab_size=150_000, has_weights=True, memory_limit_gib=80.0))
    scene.step(range(1, 400), num_ranks=4, change=lambda rank, step: {"data_time": 0.05 + (step * 7 + rank) % 5 / 500})
    assert scene.alerts() == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number(scene, bad):
    scene.step(range(1, 30), num_ranks=2)
    scene.step([30], 2, change=lambda rank, step: {"reduced_llm_loss": bad} if rank == 1 else {})
    alert = scene.alerts()["loss-nan"]
    assert (alert.level, alert.rank, alert.step) == ("critical", 1, 30)
    assert alert.evidence == f"step 30: reduced_llm_loss {bad}" and "--lr" in alert.hint
    scene.step(range(31, 60), num_ranks=2)
    assert "loss-nan" not in scene.alerts(), "it is over"


def test_a_step_that_was_skipped_is_told_apart(scene):
    """`--on-nonfinite skip`: the metrics files say which steps; their NaN is no reason to stop the run."""
    writer = MetricsWriter(scene.run.rank_metrics(0))
    for step in range(1, 40):
        bad = {"reduced_llm_loss": math.nan, "skipped": 1.0} if step in (30, 32) else {}
        position = {"step": step, "total_steps": 10_000, "timestamp": scene.now}
        writer.write({**position, **numbers(step), **bad, **({"reduced_llm_loss": 1.5} if step == 32 else {})})
    writer.close()
    scene.say("step 32 is skipped: the loss is 1.5 (all losses are finite; rank 0: a.jsonl:7)", "WARNING")
    alerts = scene.alerts()
    assert "loss-nan" not in alerts and (alerts["skipped"].level, alerts["skipped"].step) == ("warning", 32)
    assert "step 32 was skipped" in alerts["skipped"].text and "a.jsonl:7" in alerts["skipped"].evidence
    scene.step(range(40, 100))
    assert "skipped" not in scene.alerts(), "it is over"


def test_a_spike(scene):
    scene.step(range(1, 101), change=lambda rank, step: {"reduced_llm_loss": 3 + 5 / step + (step % 7) / 100})
    assert scene.alerts() == {}
    scene.step([101], change=lambda rank, step: {"reduced_llm_loss": 9.0})
    alert = scene.alerts()["loss-spike"]
    assert alert.step == 101 and "jumped to 9.000 in step 101" in alert.text and "robust z" in alert.evidence


@pytest.mark.parametrize(
    ("has_weights", "loss", "is_found"), [(True, 11.9, True), (False, 11.9, False), (True, 2.0, False)]
)
def test_weights_that_were_loaded_and_do_not_show(tmp_path, has_weights, loss, is_found):
    scene = Scene(tmp_path, RunFacts(vocab_size=151_936, has_weights=has_weights))
    scene.step([1, 2], change=lambda rank, step: {"reduced_llm_loss": loss})
    alerts = scene.alerts()
    assert ("random-weights" in alerts) == is_found
    if is_found:
        assert "ln(151936) = 11.931" in alerts["random-weights"].evidence


def test_stalled_after_a_minute_or_five_steps(scene):
    scene.step(range(1, 10), 2)
    scene.now += 50
    scene.set_state("running")
    assert scene.alerts() == {}
    scene.now += 20
    scene.set_state("running")
    alert = scene.alerts()["stalled"]
    assert alert.level == "critical" and "no step from any rank for" in alert.text and "last step 9" in alert.evidence
    first_seen = alert.since
    scene.now += 5
    assert scene.alerts()["stalled"].since == first_seen, "one alert, not one a look"
    scene.step([10], 2)
    assert scene.alerts() == {}


def test_long_steps_are_waited_for(scene):
    scene.step(range(1, 10), change=lambda rank, step: {"time": 100.0})
    scene.now += 400
    scene.set_state("running")
    assert scene.alerts() == {}
    scene.now += 200
    scene.set_state("running")
    assert "stalled" in scene.alerts()


@pytest.mark.parametrize("state", ["evaluating", "exporting"])
def test_evaluations_and_exports_are_no_stall_for_half_an_hour(scene, state):
    scene.step(range(1, 10))
    scene.now += 1000
    scene.set_state(state)
    assert scene.alerts() == {}
    scene.now += 1000
    scene.set_state(state)
    assert "stalled" in scene.alerts()


def test_a_pause_that_only_the_log_tells_of(scene):
    scene.run.status_json.unlink()
    scene.step(range(1, 10))
    scene.say("Saving checkpoint to somewhere")
    scene.now += 1000
    assert scene.alerts() == {}
    scene.step([10])
    scene.now += 1000
    assert "stalled" in scene.alerts()


def test_who_comes_late_sees_how_long_it_has_been_silent(scene, tmp_path):
    scene.step(range(1, 10))
    os.utime(scene.run.rank_log(0), (scene.now, scene.now))
    scene.now += 3600
    scene.set_state("running")
    (files,) = discover(scene.run.path)
    store = RunStore(files)
    store.apply(Feed(files).poll(10), scene.now)
    store.refresh(scene.now)
    (alert,) = Health(store, RunFacts(), free_bytes=lambda path: ROOMY).check(scene.now)
    assert alert.kind == "stalled" and "for 3600 s" in alert.text


def test_a_silent_rank(scene):
    scene.step(range(1, 10), 3)
    for step in range(10, 30):
        scene.step([step], ranks=[0, 2])
    scene.set_state("running")
    alert = scene.alerts()["silent-rank"]
    assert (alert.rank, alert.step) == (1, 9) and "rank1.log" in alert.hint and "the others are at 29" in alert.evidence


def test_a_straggler_in_words(scene):
    slow = {3, 7, 9, 12, 15, 18}
    scene.step(range(1, 21), 8, change=lambda rank, step: {"data_time": 0.82} if rank == 5 and step in slow else {})
    alert = scene.alerts()["straggler"]
    assert alert.text == "rank 5: data_time 0.82 s against a median of 0.05 s" and alert.rank == 5
    assert alert.evidence.startswith("6 of the last 20 steps")


def test_four_slow_steps_are_no_straggler(scene):
    scene.step(range(1, 21), 8, change=lambda rank, step: {"time": 4.0} if rank == 5 and step < 5 else {})
    assert scene.alerts() == {}


def test_bound_by_data(scene):
    scene.step(range(1, 30), change=lambda rank, step: {"data_time": 2.0})
    assert scene.alerts()["data-bound"].text == "data-bound: 50 % of a step is waiting for data"


def test_memory_near_its_limit_and_creeping_to_it(tmp_path):
    scene = Scene(tmp_path / "a", RunFacts(memory_limit_gib=80.0))
    scene.step(range(1, 10), 2, change=lambda rank, step: {"reserved_memory": 79.0 if rank else 20.0})
    alert = scene.alerts()["memory"]
    assert alert.rank == 1 and "is near" in alert.text and "79.0 of 80.0 GiB" in alert.evidence
    scene = Scene(tmp_path / "b", RunFacts(memory_limit_gib=80.0))
    scene.step(range(1, 301), change=lambda rank, step: {"reserved_memory": 20 + 0.01 * step})
    alert = scene.alerts()["memory"]
    assert "creeps to" in alert.text and "+1.00 GiB in 100 steps" in alert.evidence


def test_throughput_that_falls(scene):
    scene.step(range(1, 201), 2, change=lambda rank, step: {"tgs": 1000.0 if step < 180 else 500.0})
    alert = scene.alerts()["throughput-drop"]
    assert alert.text == "throughput fell to 500 tokens/s a rank, it was 1000"


def test_a_disk_that_fills_up(tmp_path):
    alert = Scene(tmp_path, free=2**30).alerts()["disk"]
    assert "1.0 GiB are free" in alert.evidence


def note(scene, rank, time, message, exit_code=6, step=7):
    path = scene.run.attempt_logs(0) / str(rank) / "error.json"
    path.parent.mkdir(parents=True)
    lines = "\n".join(["Traceback (most recent call last):", *(f"  line {number}" for number in range(30)), message])
    extra = {"py_callstack": lines, "timestamp": str(time), "rank": rank, "step": step, "exit_code": exit_code}
    path.write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def test_a_failure_names_the_first_rank_and_its_traceback(scene):
    scene.step(range(1, 8), 2)
    note(scene, 0, 90, "Connection closed by peer")
    note(scene, 1, 100, "ValueError: bad row")
    scene.set_state("failed", exit_code=6, message="rank 0 lost its peer")
    scene.now += 10
    scene.look()
    alert = scene.alerts()["failed"]
    assert (alert.rank, alert.step, alert.level) == (1, 7, "critical")
    assert alert.text == "rank 1 failed in step 7: ValueError: bad row"
    assert alert.evidence.endswith("ValueError: bad row") and len(alert.evidence.splitlines()) == 12


def test_what_failed_before_torchrun_started_again_is_past(scene):
    note(scene, 1, 100, "ValueError: bad row")
    for attempt in (2, 10):
        scene.run.attempt_logs(attempt).mkdir()
    scene.step(range(1, 8), 2)
    assert scene.alerts() == {}


def test_a_failure_after_which_the_ranks_are_started_again_is_told_until_they_have_said_something(scene):
    launch = supervise_here(scene.run, is_detached=True, max_restarts=2)
    launch.update(begun_at=0.0)
    scene.step(range(1, 8), 2)
    note(scene, 1, 100, "ValueError: bad row")
    scene.set_state("failed", exit_code=6, message="rank 0 lost its peer")
    scene.look()
    [alert] = scene.alerts().values()
    assert (alert.kind, alert.level, scene.store.state) == ("restarting", "warning", "restarting")
    assert alert.text == ("rank 1 failed in step 7: ValueError: bad row; the ranks are started again, restart 1 of 2")
    assert alert.evidence.endswith("ValueError: bad row")

    scene.run.attempt_logs(1).mkdir()
    scene.look()
    launch.update(num_restarts=1, restarted_at=scene.now, restarted_after="rank 1 failed: bad row\n  line 29")
    [alert] = scene.alerts().values()
    assert (alert.kind, alert.evidence) == ("restarting", "  line 29"), "its notes are no longer where they were"
    assert alert.text == "rank 1 failed: bad row; the ranks are started again, restart 1 of 2"

    scene.now += 1
    scene.set_state("running")
    assert scene.alerts() == {}
    scene.set_state("running", pid=0)
    [alert] = scene.alerts().values()
    assert alert.text.startswith("the ranks failed at step 7; the ranks are"), "they have left no word"
    launch.update(exit_code=6, message="gave up")
    scene.set_state("failed", exit_code=6)
    assert scene.alerts()["failed"].level == "critical"


def test_a_failure_without_notes_quotes_the_last_words(scene):
    scene.step(range(1, 8))
    scene.say("step 7: RuntimeError: no", "ERROR")
    scene.set_state("failed", exit_code=6)
    alert = scene.alerts()["failed"]
    assert alert.evidence == "step 7: RuntimeError: no" and "logs" in alert.hint


def test_a_rank_that_was_killed_is_named_though_it_left_no_note(scene):
    """torchrun ends the others with SIGTERM, which they take for a wish to stop."""
    scene.step(range(1, 8), 2)
    note(scene, 0, 90, "stopped by SIGTERM", exit_code=8)
    summary = "Failures:\n[1]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : -15 (pid: 5)\n" * 2
    output = scene.run.logs / "torchrun" / "torchrun.log"
    output.parent.mkdir()
    output.write_text(summary + "Root Cause:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 6)\n")
    scene.set_state("stopped", exit_code=8)
    scene.look()
    alert = scene.alerts()["failed"]
    assert (alert.rank, alert.text) == (1, "rank 1 was ended by SIGKILL and left no message") and "dmesg" in alert.hint


def test_a_rank_killed_in_a_launch_before_the_last_is_not_what_ails_a_resumed_run(scene):
    scene.step(range(1, 8))
    for name, text in (("torchrun", "  rank : 1\n  exitcode : -9 (pid: 6)\n"), ("torchrun-2", "")):
        (scene.run.logs / name).mkdir()
        (scene.run.logs / name / "torchrun.log").write_text(text)
    scene.set_state("stopped", exit_code=7)
    scene.look()
    assert "failed" not in scene.alerts()


def test_a_lost_run(scene):
    scene.step(range(1, 8))
    scene.now += 100
    assert scene.alerts()["lost"].level == "critical" and list(scene.alerts()) == ["lost"]


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_run_that_ended_is_not_stalled(scene, state):
    scene.step(range(1, 8))
    scene.set_state(state, exit_code=0)
    scene.now += 10_000
    assert scene.alerts() == {}


def test_the_worst_comes_first(scene):
    scene.step(range(1, 30), change=lambda rank, step: {"data_time": 2.0, "reduced_llm_loss": math.nan})
    scene.store.refresh(scene.now)
    assert [alert.level for alert in scene.health.check(scene.now)] == ["critical", "warning"]

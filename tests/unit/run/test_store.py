"""What a store tells of the run as a whole."""

import json
from array import array
from datetime import datetime

import pytest

from xtuner.run.blocks import StepBlock
from xtuner.run.discover import RunFiles, discover
from xtuner.run.events import Steps
from xtuner.run.feed import Feed
from xtuner.run.layout import RunDir
from xtuner.run.logline import format_log
from xtuner.run.rank_steps import RankSteps
from xtuner.run.store import RunStore


def block(rank, steps, **values):
    count = len(steps)
    columns = {key: array("d", [value] * count) for key, value in values.items()}
    return StepBlock(rank, array("d", steps), array("d", [1e9 + step for step in steps]), columns, 100, 2)


@pytest.fixture
def store(tmp_path):
    return RunStore(RunFiles(tmp_path, "logs", {}, {}))


def test_an_empty_store_knows_nothing(store):
    store.refresh(0.0)
    assert (store.step, store.total_steps, store.loss_key, store.first_rank) == (0, 0, None, None)
    assert store.eta_s() is None and store.num_tokens() is None and store.step_time_s() is None
    assert store.keys() == [] and store.latest("lr") == {} and store.series(0, "lr") is None
    assert len(store.band("lr").median) == 0


def test_the_run_as_a_whole(store):
    for rank in (1, 0):
        steps = block(rank, range(1, 11 + rank), time=2.0, data_time=0.5, text_tokens=10.0 + rank, loss=3.0, lr=rank)
        store.apply([Steps(steps, False, False)], 50.0)
    assert (store.step, store.total_steps, store.epoch, store.loss_key) == (11, 100, 2, "loss")
    assert store.step_time_s() == 2.5 and store.eta_s() == 2.5 * 89 and store.num_tokens() == 100 + 121
    assert store.keys() == ["time", "data_time", "text_tokens", "loss", "lr", "timestamp"]
    assert store.latest("lr") == {0: 0, 1: 1} and store.ranks[1].last_heard == 50
    assert store.ranks[1].last_time == 1e9 + 11


def test_one_slow_step_does_not_move_the_time_that_is_left(store):
    store.apply([Steps(block(0, range(1, 50), time=1.0), False, False)], 0.0)
    store.apply([Steps(block(0, [50], time=1000.0), False, False)], 0.0)
    assert store.eta_s() == 50


def test_ranks_that_join_are_in_the_band(store):
    store.apply([Steps(block(0, [1, 2], loss=1.0), False, False)], 0.0)
    assert store.band("loss").high.value_at(2) == (2, 1)
    assert store.band("loss") is store.band("loss"), "kept up, not made anew"
    store.apply([Steps(block(1, [1, 2], loss=5.0), False, False)], 0.0)
    assert store.band("loss").high.value_at(2) == (2, 5)


def test_what_was_written_long_ago_was_heard_then(store):
    store.apply([Steps(block(0, [1], loss=1.0), False, False, written_at=40.0)], 100.0)
    assert store.ranks[0].last_heard == 40
    store.apply([Steps(block(0, [2], loss=1.0), False, False, written_at=900.0)], 100.0)
    assert store.ranks[0].last_heard == 100, "a clock that is ahead"


def test_the_revision_grows_with_each_change(store):
    before = store.revision
    store.apply([Steps(block(0, [1], loss=1.0), False, False)], 0.0)
    assert store.revision > before


def test_text_that_lags_behind_metrics_that_went_back():
    rank = RankSteps()
    rank.add(block(0, [5, 6, 7], loss=1.0), 0.0, is_precise=True)
    rank.add(block(0, [3, 4], loss=2.0), 0.0, is_precise=True)
    rank.add(block(0, [5, 6, 7], loss=1.0), 0.0, is_precise=False)
    assert rank.last_step == 7, "for all that is known, these came after"
    rank.add(block(0, [3, 4], loss=2.0), 0.0, is_precise=False)
    assert list(rank.series["loss"].samples()[0]) == [3, 4]


def test_a_log_of_ten_gigabytes_opens_at_once(tmp_path):
    run = RunDir.create(tmp_path)
    line = "[XTuner][2025-08-29 09:17:51][INFO] Step {}/100000 time: 1.0 loss: 2.5\n"
    with run.rank_log(0).open("wb") as file:
        file.truncate(10 * 2**30)  # sparse
        file.seek(0, 2)
        file.write(("\n" + "".join(line.format(step) for step in range(1, 5001))).encode())
    (files,) = discover(run.path)
    feed, store = Feed(files, clock=lambda: 0.0), RunStore(files)
    feed._plan_past = lambda followed, end: None  # zeros, for minutes
    while not feed.has_newest:
        store.apply(feed.poll(), 0.0)
    assert store.step == 5000 and len(store.series(0, "loss")) > 100


def test_evaluations_are_those_of_the_file_that_is_there_now(tmp_path):
    run = RunDir.create(tmp_path)
    run.rank_log(0).write_text(format_log("hello", "INFO", datetime(2025, 1, 1), 0) + "\n")
    (files,) = discover(run.path)
    store = RunStore(files)
    store.refresh(0.0)
    assert store.evaluations == {}
    run.eval_metrics.write_text(json.dumps({"kind": "eval", "step": 5, "eval_loss": "nan"}) + "\n")
    store.refresh(0.0)
    assert store.evaluations[5]["eval_loss"] != store.evaluations[5]["eval_loss"]
    run.eval_metrics.write_text(json.dumps({"kind": "eval", "step": 1, "eval_loss": 3.5}) + "\n" * 2)
    store.refresh(0.0)
    assert list(store.evaluations) == [1]

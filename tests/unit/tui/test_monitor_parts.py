"""The parts of the dashboard that need no screen: merged logs, filters, the worker, cards, layouts."""

import random
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from list_series import ListSeries
from monitor_runs import RunWriter, healthy_run

from xtuner.byte_size import shown_size
from xtuner.run import derived
from xtuner.run.discover import discover
from xtuner.run.facts import RunFacts
from xtuner.run.feed import Feed
from xtuner.run.figures import duration
from xtuner.run.layout import RunDir
from xtuner.run.logline import format_log
from xtuner.run.status import start_status, write_status
from xtuner.run.supervision import supervise_here
from xtuner.tui.monitor import merged_lines as merged_module
from xtuner.tui.monitor import painter as painter_module
from xtuner.tui.monitor import panes
from xtuner.tui.monitor.document import pairs, wrap
from xtuner.tui.monitor.header import Headline, draw_header
from xtuner.tui.monitor.log_filter import LineFilter, compile_pattern, is_loud
from xtuner.tui.monitor.log_worker import Filtered, LogWorker, Search, search_lines
from xtuner.tui.monitor.merged_lines import MergedLines
from xtuner.tui.monitor.notice_line import Notice, notice_of
from xtuner.tui.monitor.overview import layout_for
from xtuner.tui.monitor.painter import Painter
from xtuner.tui.monitor.plots import CHARTS, PlotChoice, PlotMaker
from xtuner.tui.monitor.reader import Reader
from xtuner.tui.monitor.run_sections import sections_of
from xtuner.tui.monitor.session import Session
from xtuner.tui.widgets.braille import BRAILLE
from xtuner.tui.widgets.cells import num_cells
from xtuner.tui.widgets.file_lines import FileLines
from xtuner.tui.widgets.level import Level
from xtuner.tui.widgets.picture import Run, text_of
from xtuner.tui.widgets.plot import Plot
from xtuner.tui.widgets.plot_drawing import draw_plot
from xtuner.tui.widgets.progress_line import Progress
from xtuner.tui.widgets.svg_plot import shared_view

BEGUN = datetime(2025, 8, 29, 9, 0, 0)


def log_line(rank, second, text):
    return format_log(text, "INFO", BEGUN + timedelta(seconds=second), rank)


def write_logs(folder, num_lines, num_ranks=3, seed=0):
    """Logs of different pace, with lines that have no head; the texts as they should be merged."""
    seeded = random.Random(seed)
    files, entries = {}, []
    for rank in range(num_ranks):
        files[rank], second, lines = folder / f"rank{rank}.log", 0, []
        for number in range(num_lines):
            has_head = number == 0 or seeded.random() < 0.8
            second += seeded.choice([0, 0, 1, 2, 5]) if has_head else 0  # a line without a time has that before it
            lines.append(log_line(rank, second, f"line {number}") if has_head else f"  frame {number} of {rank}")
            text = lines[-1] if has_head else f"[RANK {rank}] {lines[-1]}"
            entries.append((second, rank, number, text))
        files[rank].write_text("".join(line + "\n" for line in lines))
    return files, [text for *_, text in sorted(entries)]


def all_of(source):
    while not source.is_complete:
        source.extend_back()
    return source.read_many(*source.bounds())


@pytest.mark.parametrize("newest_bytes", [2**12, 2**20])
@pytest.mark.parametrize("past_bytes", [500, 2**17])
def test_logs_are_merged_by_time_from_the_newest_backwards(tmp_path, monkeypatch, newest_bytes, past_bytes):
    monkeypatch.setattr(merged_module, "_NEWEST_BYTES", newest_bytes)
    monkeypatch.setattr(merged_module, "_PAST_BYTES", past_bytes)
    files, expected = write_logs(tmp_path, 400)
    source = MergedLines(files)
    source.grow()
    first, stop = source.bounds()
    assert first == 0 and 0 < stop <= len(expected)
    newest = source.read_many(0, stop)
    assert newest == expected[-stop:]
    assert all_of(source) == expected
    assert source.read(0) == newest[0] and source.bounds()[1] == stop


def test_what_is_written_later_comes_after(tmp_path):
    files, expected = write_logs(tmp_path, 5)
    source = MergedLines(files)
    source.grow()
    assert not source.grow()
    late = [log_line(1, 0, "early time, written late"), log_line(0, 99, "newest")]
    for rank, text in zip((1, 0), late, strict=True):
        with files[rank].open("a") as file:
            file.write(text + "\nunfinished")
    assert source.grow() and all_of(source) == expected + late


def test_a_merged_log_that_cannot_be_read_says_so_for_its_lines_alone(tmp_path):
    files, expected = write_logs(tmp_path, 5)
    source = MergedLines({**files, 9: tmp_path / "rank9.log"})
    source.grow()
    files[0].unlink()
    assert len(expected) == source.bounds()[1]
    with pytest.raises(OSError, match="rank0"):
        source.read_many(0, len(expected))
    with pytest.raises(IndexError):
        source.read(len(expected))


def test_a_past_that_is_cut_meanwhile_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(merged_module, "_NEWEST_BYTES", 2**12)
    files, _ = write_logs(tmp_path, 400, num_ranks=2)
    source = MergedLines(files)
    source.grow()
    for path in files.values():
        path.write_text("")
    all_or_nothing = threading.Thread(target=lambda: [source.extend_back() for _ in range(3)])
    all_or_nothing.start()
    all_or_nothing.join(60)
    assert source.is_complete


HEAD = "[XTuner][RANK 3][2025-08-29 09:00:00]"


@pytest.mark.parametrize(
    ("chosen", "passing", "failing"),
    [
        (LineFilter(), ["", "anything"], []),
        (LineFilter(level="warning"), [f"{HEAD}[WARNING] x", f"{HEAD}[ERROR] x", "  File"], [f"{HEAD}[INFO] x", " "]),
        (LineFilter(level="error"), [f"{HEAD}[CRITICAL] x", "ValueError: x"], [f"{HEAD}[WARNING] x"]),
        (LineFilter(rank=3), [f"{HEAD}[INFO] x"], ["[XTuner][RANK 33] x", "x"]),
        (LineFilter(pattern=compile_pattern("LOSS: 1")), ["total_loss: 1.7"], ["total_loss: 2.1"]),
    ],
)
def test_which_lines_pass(chosen, passing, failing):
    assert [chosen.passes(text) for text in passing] == [True] * len(passing)
    assert [chosen.passes(text) for text in failing] == [False] * len(failing)
    assert chosen.is_open == (chosen == LineFilter())


def test_loud_lines():
    assert is_loud(f"{HEAD}[WARNING] x") and is_loud("Traceback (most recent call last):")
    assert not is_loud(f"{HEAD}[INFO] x")


@pytest.fixture
def numbered(tmp_path):
    path = tmp_path / "rank0.log"
    path.write_text("".join(f"line {number}\n" for number in range(5000)))
    return path


def test_a_filter_finds_the_newest_first_and_all_in_the_end(numbered):
    source = FileLines(numbered, block_bytes=4096)
    filtered = Filtered(source, lambda text: text.endswith("7"))
    filtered.advance()
    early = [source.read(number) for number in filtered.numbers()]
    assert early and early[-1] == "line 4997" and len(early) < 500
    while filtered.advance():
        pass
    assert filtered.is_done and [source.read(number) for number in filtered.numbers()] == [
        f"line {number}" for number in range(7, 5000, 10)
    ]
    with numbered.open("a") as file:
        file.write("new 7\nnew 8\n")
    source.grow()
    assert filtered.advance() and source.read(filtered.numbers()[-1]) == "new 7"


@pytest.mark.parametrize(("start", "step", "found"), [(0, 1, "line 1234"), (-1, -1, "line 1234"), (0, -1, None)])
def test_searching_in_both_directions(numbered, start, step, found):
    source = FileLines(numbered, block_bytes=2**20)
    first, stop = source.bounds()
    start = stop - 1 if start == -1 else first + start
    number = search_lines(source, Search(lambda text: text == "line 1234", start, step), lambda: False)
    assert (None if number is None else source.read(number)) == found


def test_a_search_upwards_reads_the_past_as_it_needs_it(numbered):
    source = FileLines(numbered, block_bytes=1024)
    assert not source.is_complete
    _, stop = source.bounds()
    number = search_lines(source, Search(lambda text: text == "line 0", stop - 1, -1), lambda: False)
    assert source.read(number) == "line 0" and source.is_complete
    assert search_lines(source, Search(lambda text: False, stop - 1, -1), lambda: True) is None


def test_many_lines_at_once_are_those_read_one_by_one(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\r\n" + b"\xff\n" + b"x" * 100_000 + b"\n\nlast\nunfinished")
    source = FileLines(path)
    first, stop = source.bounds()
    assert source.read_many(first, stop) == [source.read(number) for number in range(first, stop)]
    with pytest.raises(IndexError):
        source.read_many(first, stop + 1)


def test_the_worker_raises_nothing_and_keeps_a_bug(numbered):
    worker = LogWorker()

    def broken():
        raise ZeroDivisionError("a bug")

    buggy = FileLines(numbered)
    buggy.grow = broken
    worker.start()
    worker.watch(FileLines(numbered), None)
    worker.watch(buggy, None)
    worker._thread.join(60)
    assert isinstance(worker.error, ZeroDivisionError)
    worker.stop()


def test_the_reader_waits_for_the_screen(tmp_path):
    class Endless:
        has_backlog, is_whole, has_newest = True, False, True
        num_polls = 0

        def poll(self, budget_s):
            self.num_polls += 1
            return ["event"]

        def close(self):
            self.is_closed = True

    feed = Endless()
    reader = Reader(feed)
    reader.start()
    deadline = time.monotonic() + 60
    while feed.num_polls < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert feed.num_polls == 8 and reader.is_behind
    assert len(list(reader.drain(60))) >= 8 and reader.has_newest
    reader.stop()
    assert not reader._thread.is_alive() and feed.is_closed


def test_a_slice_is_drained_however_small_the_budget():
    class Empty:
        has_backlog, is_whole, has_newest = False, True, True

    reader = Reader(Empty())
    reader._slices.extend([[1], [2]])
    assert list(reader.drain(0.0)) == [[1]] and list(reader.drain(60)) == [[2]] and list(reader.drain(0)) == []


@pytest.mark.parametrize("num_charts", [1, 6, 30])
def test_layouts_have_room_for_all_of_their_charts(num_charts):
    for width in range(1, 260, 7):
        for height in range(1, 90, 3):
            layout = layout_for(width, height, num_charts)
            assert layout.chart_columns >= 1 and layout.chart_rows >= 1 and layout.card_columns >= 1
            assert layout.chart_columns == 1 or width // layout.chart_columns >= 60
            assert layout.chart_rows == 1 or height // layout.chart_rows >= 9
    assert layout_for(80, 19, num_charts).num_charts == 1
    assert layout_for(120, 31, num_charts).num_charts >= min(num_charts, 6)


def session_of(path):
    (files,) = discover(path)
    session = Session(files)
    session.start()
    deadline = time.monotonic() + 60
    while session.is_behind and time.monotonic() < deadline:
        session.tick(time.time())
        time.sleep(0.01)
    session.tick(time.time())
    session.stop()
    return session


def test_what_a_run_says_of_itself_after_it_was_opened_is_known(tmp_path):
    """As after `xtuner sft`, which shows the dashboard while the ranks still start."""
    run = RunDir.create(tmp_path)
    (files,) = discover(tmp_path)
    session = Session(files)
    session.look(time.time())
    assert session.facts == RunFacts() and session.record == {}
    writer = RunWriter(tmp_path, run=run)
    session.look(time.time())
    assert session.facts.memory_limit_gib == 80.0 and session.record["model"] == "models/Qwen3-0.6B"
    writer.add_steps(3, lambda rank, step: {"reserved_memory": 79.5})
    session.store.apply(Feed(files.look_again()).poll(60), time.time())
    session.look(time.time())
    assert "is near the limit" in next(alert.text for alert in session.alerts if alert.kind == "memory")


def test_several_data_sets_stand_in_a_row(tmp_path):
    RunWriter(tmp_path).write_record(dataset=["a.jsonl", {"path": "b.jsonl", "ratio": 2}])
    session = session_of(tmp_path)
    facts = dict(sections_of(session, {}, {}, time.time())["run"])
    assert facts["data"] == 'a.jsonl, {"path": "b.jsonl", "ratio": 2}' and facts["state"] == "running"


def test_while_a_run_starts_its_last_words_are_shown(tmp_path):
    run = RunDir.create(tmp_path)
    supervise_here(run, is_detached=True)
    (files,) = discover(tmp_path)
    session = Session(files)
    session.look(time.time())
    assert notice_of(session, "4") == Notice("no step yet: the ranks load their libraries")
    assert session.elapsed_s(time.time() + 60) == pytest.approx(60, abs=30)
    run.rank_log(0).write_text(log_line(0, 1, "data: 449 rows") + "\n")
    session.store.apply(Feed(files.look_again()).poll(60), time.time())
    assert notice_of(session, "4") == Notice("no step yet: data: 449 rows")
    write_status(run, replace(start_status(9), state="failed"))
    session.look(time.time())
    assert session.state == "failed" and notice_of(session, "4").look == "error"


def test_what_is_not_shown_yet_is_loaded_one_by_one(monkeypatch):
    asked, loaded = [], []
    monkeypatch.setattr(panes, "import_module", loaded.append)
    panes.load_ahead(lambda seconds, then: asked.append(then))
    while asked:
        asked.pop()()
        assert len(asked) <= 1
    assert [name.rpartition(".")[2] for name in loaded] == list(panes._LATER)
    assert all(find_spec(name) for name in loaded)


def test_a_tab_is_painted_when_there_is_news_and_in_parts_while_a_history_is_read():
    said = []
    pane = SimpleNamespace(
        painted=-1, is_live=False, repaint=lambda now: said.append("all"), repaint_part=lambda now: said.append("part")
    )
    session, painter = SimpleNamespace(revision=1, is_behind=True), Painter()
    with patch.object(painter_module, "_PART_S", 0.0):
        painter.show(pane, [session], 0.0)
        painter.paint(pane, [session], 0.0)
        assert said == ["all"]
        session.revision = 2
        painter.paint(pane, [session], 0.0)
        painter.paint(pane, [session], 0.0)
        assert said == ["all", "part", "part"], "a part is not all of the news"
    painter.show(pane, [session], 0.0)
    assert said == ["all", "part", "part"], "the picture it had is shown first"
    session.is_behind = False
    painter.paint(pane, [session], 0.0)
    painter.paint(pane, [session], 0.0)
    painter.forget()
    assert said == ["all", "part", "part", "all"]


def test_the_first_rank_stands_for_all_until_a_long_band_is_computed(tmp_path):
    with patch.object(derived, "_SLICE", 40):
        session = session_of(healthy_run(tmp_path, num_ranks=3).run.path)
        [spec] = [spec for spec in CHARTS if spec.id == "throughput"]
        [curve] = PlotMaker(session).curves(spec, PlotChoice())
        assert curve.band is None and curve.envelope is session.store.series(0, "tgs")
        assert PlotMaker(session, waits=True).curves(spec, PlotChoice())[0].band, "a report has it at once"
        session.store.band("tgs").cut(0, float("-inf"))
        before = session.revision
        session.tick(time.time())
        while session.is_behind:
            session.tick(time.time())
        assert session.revision > before, "there is something to paint"
        assert PlotMaker(session).curves(spec, PlotChoice())[0].band


def test_curves_are_kept_so_that_what_is_smoothed_is_smoothed_once(tmp_path):
    session = session_of(healthy_run(tmp_path, num_ranks=3).run.path)
    plots = PlotMaker(session)
    specs = {spec.id: spec for spec in CHARTS}
    first, second = (plots.curves(specs["throughput"], PlotChoice()) for _ in range(2))
    assert first[0].line is second[0].line and first[0].band == second[0].band
    assert plots.curves(specs["throughput"], PlotChoice(weight=0.6))[0].line is not first[0].line
    alone = plots.curves(specs["throughput"], PlotChoice(rank=2))[0]
    assert alone.band is None and alone.envelope is session.store.series(2, "tgs")
    assert [curve.name for curve in plots.curves(specs["loss"], PlotChoice())] == ["train", "evaluation"]
    assert plots.curves(specs["throughput"], PlotChoice(rank=9)) == []


@pytest.mark.parametrize("estimate", [16.25, None, "16.25", float("inf")])
def test_the_estimate_is_a_named_level_over_the_measured_memory(tmp_path, estimate):
    writer = healthy_run(tmp_path)
    writer.write_record(memory_estimate_gib=estimate)
    plots = PlotMaker(session_of(writer.run.path))
    [spec] = [spec for spec in CHARTS if spec.id == "memory"]
    curves = plots.curves(spec, PlotChoice())
    names = [curve.name for curve in curves]
    assert names == ["peak", "reserved", "estimate"] if estimate == 16.25 else names == ["peak", "reserved"]
    view = shared_view([curve.line for curve in curves])
    picture = text_of(draw_plot(Plot(spec.title, curves, view, spec.unit), 80, 12, BRAILLE)).splitlines()
    assert ("c estimate 16.25" in picture[1]) == (estimate == 16.25)
    assert any(row.endswith("c 16.25") for row in map(str.rstrip, picture)) == (estimate == 16.25)


def test_a_level_is_as_long_as_what_it_is_held_against():
    beside = ListSeries([7.0, 8.0, 9.0], x=[10, 20, 30])
    level = Level(2.5, beside)
    assert (len(level), level.x_range(), level.value_at(25)) == (3, (10, 30), (20, 2.5)) and level.value_at(9) is None
    shown = [(column.low, column.high, column.last) for column in level.columns(0, 40, 8) if column.low <= column.high]
    assert len(shown) in range(4, 7) and set(shown) == {(2.5, 2.5, 2.5)}
    empty = Level(2.5, ListSeries([]))
    assert empty.x_range() is None and all(column.low > column.high for column in empty.columns(0, 1, 3))


def test_the_mean_of_a_card_does_not_depend_on_that_of_the_chart(tmp_path):
    session = session_of(healthy_run(tmp_path).run.path)
    plots, (loss, *_) = PlotMaker(session), CHARTS
    series = session.store.series(0, session.store.loss_key)
    card = plots.smoothed(series, 0.9).samples()
    chart = plots.curves(loss, PlotChoice(weight=0.99))[0].line
    assert chart.samples() != card == plots.smoothed(series, 0.9).samples()
    assert plots.curves(loss, PlotChoice(weight=0.99))[0].line is chart


def test_a_smoothed_median_is_brought_up_to_date_with_its_band(tmp_path):
    writer = RunWriter(tmp_path, num_ranks=2)
    writer.add_steps(50, ranks=[0])
    writer.step = 0
    session = session_of(writer.run.path)
    writer.add_steps(50, lambda rank, step: {"tgs": 2000.0}, ranks=[1])
    plots, store = PlotMaker(session), session.store
    before = plots.smoothed(store.series(0, "tgs"), 0.9)
    assert len(before) == 50
    session = session_of(writer.run.path)
    band = session.store.band("tgs")
    smoothed = PlotMaker(session).smoothed(band.median, 0.5)
    _, medians = band.median.samples()
    assert len(smoothed) == 50 and medians[10] > 1300
    last, bias = 0.0, 1.0
    for value in medians:
        last, bias = last * 0.5 + 0.5 * value, bias * 0.5
    assert smoothed.value_at(50)[1] == pytest.approx(last / (1 - bias))


@pytest.mark.parametrize("width", [1, 5, 12, 30, 80, 200])
def test_text_is_wrapped_to_the_width_and_loses_nothing(width):
    text = "the quick brown 数据集 fox\n\njumps " + "x" * 100
    lines = wrap(text, width)
    assert all(num_cells(line) <= max(width, 2) for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    rows = pairs([("name", text), ("a long name of an option", "")], width)
    assert len(rows) > len(text.splitlines())


def test_the_header_in_any_width():
    headline = Headline(
        "/work/runs/20251129-143012-3f9a", "running", True, Progress(12, 100, "ETA 1:00:00"), ("a", "b")
    )
    for width in range(1, 220):
        rows = draw_header(headline, width, 2, is_ascii=False, pill=Run(" RUNNING "))
        assert [num_cells("".join(run.text for run in row)) for row in rows] == [width, width]
    assert "3f9a" in text_of(rows) and "PAUSED" in text_of(rows) and "ETA 1:00:00" in text_of(rows)


def test_figures():
    assert [duration(value) for value in (None, float("nan"), 3661.4)] == ["-", "-", "1:01:01"]
    assert [shown_size(value) for value in (0, 1023, 1024, 1536 * 2**20)] == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]

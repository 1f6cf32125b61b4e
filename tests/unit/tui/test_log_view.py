"""The log on a screen: reading what is seen, following, filtering, searching, jumping."""

import re

import pytest
from tui_pictures import show, strips_of, text_on

from xtuner.tui.widgets.log_view import LogView, level_of


class Lines:
    """Numbered lines, as many as one likes; remembers which were read."""

    def __init__(self, first, stop):
        self.first, self.stop = first, stop
        self.was_read = []

    def bounds(self):
        return self.first, self.stop

    def read(self, number):
        self.was_read.append(number)
        return f"line {number} of the log"


def drive(steps, first=0, stop=1000, size=(60, 10)):
    source = Lines(first, stop)

    async def begin(app, pilot):
        view = app.query_one(LogView)
        view.focus()
        await pilot.pause()
        await steps(view, pilot, source, lambda: [line.split(" of")[0].strip() for line in text_on(app).splitlines()])

    show(lambda: LogView(source), begin, size)


def numbers(*values):
    return [f"line {value}" for value in values]


def test_only_visible_lines_are_read_of_a_hundred_million():
    async def steps(view, pilot, source, shown):
        assert shown() == numbers(*range(99_999_990, 100_000_000))
        await pilot.press("home")
        await pilot.pause()
        assert shown() == numbers(*range(10))
        view.jump_to(54_321_000)
        await pilot.pause()
        assert "> line 54321000" in [line.replace(">", "> ") for line in shown()]
        assert len(source.was_read) <= 40

    drive(steps, 0, 100_000_000)


def test_follows_until_one_looks_back_and_counts_what_came():
    async def steps(view, pilot, source, shown):
        source.stop += 3
        view.grow()
        await pilot.pause()
        assert shown() == numbers(*range(993, 1003)) and view.is_following
        await pilot.press("up")
        await pilot.pause()
        assert not view.is_following and shown() == numbers(*range(992, 1002))
        source.stop += 1234
        view.grow()
        await pilot.pause()
        assert shown()[:-1] == numbers(*range(992, 1001)) and view.num_unseen == 1234
        assert "line 1001" in shown()[-1]
        await pilot.press("end")
        await pilot.pause()
        assert view.is_following and view.num_unseen == 0 and shown() == numbers(*range(2227, 2237))

    drive(steps)


def test_the_pill_says_how_many_and_a_click_follows():
    async def steps(view, pilot, source, shown):
        await pilot.press("pageup")
        source.stop += 1234
        view.grow()
        await pilot.pause()
        [last] = strips_of(view.app)[-1:]
        assert "+1,234 lines" in last.text and last.cell_length == 60
        await pilot.click(LogView, offset=(55, 9))
        await pilot.pause()
        assert view.is_following and "lines" not in strips_of(view.app)[-1].text

    drive(steps)


def test_scrolling_down_to_the_end_follows_again():
    async def steps(view, pilot, source, shown):
        await pilot.press("up", "up", "down")
        assert not view.is_following
        await pilot.press("down")
        assert view.is_following

    drive(steps)


def test_lines_found_before_do_not_move_what_is_seen():
    async def steps(view, pilot, source, shown):
        await pilot.press("home")
        await pilot.pause()
        assert shown()[0] == "line 0"
        source.first = -500
        view.grow()
        await pilot.pause()
        assert shown() == numbers(*range(10)) and view.top_line == 0
        await pilot.press("up")
        await pilot.pause()
        assert shown()[0] == "line -1"

    drive(steps)


def test_a_filter_shows_its_lines_and_keeps_the_place():
    async def steps(view, pilot, source, shown):
        view.set_filter(range(0, 1000, 7))
        await pilot.pause()
        assert shown()[-1] == "line 994" and view.num_lines == 143
        view.jump_to(500)
        await pilot.pause()
        top = view.top_line
        assert 420 < top <= 504 and top % 7 == 0
        view.set_filter(None)
        await pilot.pause()
        assert view.top_line == top
        view.set_filter([])
        await pilot.pause()
        assert view.num_lines == 0 and shown()[0] == "no lines"

    drive(steps)


def test_a_growing_filter_counts_its_own_lines():
    async def steps(view, pilot, source, shown):
        view.set_filter([5, 6, 7, *range(10, 60)])
        await pilot.press("home")
        source.stop += 100
        view.grow()
        assert view.num_unseen == 0
        view.set_filter([5, 6, 7, *range(10, 60), 1005, 1006])
        assert view.num_unseen == 2

    drive(steps)


def test_what_is_sought_is_marked():
    async def steps(view, pilot, source, shown):
        view.set_pattern(re.compile("99[0-9]"))
        await pilot.pause()
        marked = [s.text for strip in strips_of(view.app) for s in strip if s.style.reverse and "99" in s.text]
        assert marked == [str(number) for number in range(990, 1000)]
        view.set_pattern(re.compile(""))
        await pilot.pause()
        assert shown()[-1] == "line 999"
        view.set_pattern(None)
        await pilot.pause()
        assert not any(
            segment.style.reverse for strip in strips_of(view.app) for segment in strip if "99" in segment.text
        )

    drive(steps)


def test_jumping_near_the_ends_and_to_what_is_not_there():
    async def steps(view, pilot, source, shown):
        for number, top in ((0, 0), (999, 990), (-50, 0), (10**9, 990)):
            view.jump_to(number)
            await pilot.pause()
            assert view.top_line == top and view.target == number and not view.is_following

    drive(steps)


def test_long_and_wide_lines_are_cut():
    class Long(Lines):
        def read(self, number):
            return "数" * 10_000 if number % 2 else "x" * 10**6

    async def steps(app, pilot):
        assert [strip.cell_length for strip in strips_of(app)] == [60] * 10
        assert all(line[:-1].rstrip().endswith("…") for line in text_on(app).splitlines())

    show(lambda: LogView(Long(0, 100)), steps, (60, 10))


def test_a_line_that_cannot_be_read_says_why():
    class Broken(Lines):
        def read(self, number):
            raise OSError("Input/output error")

    async def steps(app, pilot):
        assert "cannot be read: Input/output error" in text_on(app)

    show(lambda: LogView(Broken(0, 1)), steps)


def test_without_a_source_there_are_no_lines():
    async def steps(app, pilot):
        app.query_one(LogView).grow()
        app.query_one(LogView).focus()
        await pilot.press("up", "down", "home", "end", "pageup", "pagedown")
        assert text_on(app).strip() == "no lines"

    show(LogView, steps)


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("[XTuner][RANK 0][2025-08-29 09:17:51][ERROR] boom", "error"),
        ("[XTuner][2025-08-29 09:17:51][WARNING] careful", "warning"),
        ("[XTuner][2025-08-29 09:17:51][INFO] Step 1/2", ""),
        ("Traceback (most recent call last):", "error"),
        ("x" * 500 + "[ERROR]", ""),
    ],
)
def test_levels(text, look):
    assert level_of(text) == look

"""The browser of rows, driven as a user drives it: moving, looking, switching views."""

import asyncio
import json

import pytest
from preview_screen import Screen, chat, drive

from xtuner.data.sources import describe_file
from xtuner.tui.preview.app import PreviewApp
from xtuner.tui.preview.help import HelpScreen
from xtuner.tui.preview.layout import is_trained


def test_opens_with_list_row_and_trained_text_marked(write, pool):
    async def steps(screen):
        assert "row 1 of 3" in screen.header and "tokens trained" in screen.header
        assert "<|im_start|>user\nHow are you?<|im_end|>" in screen.row
        assert screen.trained == ["I am well.<|im_end|>"]  # neither the question nor the headings
        await screen.until(lambda: "你好吗" in screen.text)
        [shown] = [line for line in screen.lines if "I am well." in line]
        assert "▌ I am well." in shown and "▌" not in "".join(line for line in screen.lines if "How are you?" in line)

    drive(steps, write([chat("How are you?", "I am well."), chat("你好吗"), chat("third")]), pool)


def test_trained_text_is_marked_without_colour_too(write, pool, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(screen):
        [strip] = [s for s in screen.app.screen._compositor.render_strips() if "▌ I am well." in s.text]
        looks = {segment.text: segment.style for segment in strip}
        assert looks["I am well."].underline and looks["<|im_end|>"].underline
        [strip] = [s for s in screen.app.screen._compositor.render_strips() if "How are you?<|im_end|>" in s.text]
        assert not any(segment.style.underline for segment in strip)

    drive(steps, write([chat("How are you?", "I am well.")]), pool)


def test_keys_move_through_the_list(write):
    async def steps(screen):
        assert screen.cursor == 0
        await screen.press("j", "j", "k", "down")
        assert screen.cursor == 2 and "question 2" in screen.row and "row 3 of 200" in screen.header
        await screen.press("pagedown")
        page = screen.cursor - 2
        assert 20 < page < 30
        await screen.press("end")
        assert screen.cursor == 199 and "question 199" in screen.text
        await screen.press("j")
        assert screen.cursor == 199
        await screen.press("pageup")
        assert screen.cursor == 199 - page
        await screen.press("home")
        assert screen.cursor == 0
        await screen.press("k")
        assert screen.cursor == 0

    drive(steps, write([chat(f"question {i}") for i in range(200)]))


def test_click_chooses_a_row(write):
    async def steps(screen):
        await screen.pilot.click("RowList", offset=(10, 4))
        await screen.settle()
        assert screen.cursor == 3 and "question 3" in screen.row

    drive(steps, write([chat(f"question {i}") for i in range(20)]))


def test_long_row_scrolls_with_space_from_the_list_and_with_arrows_from_the_row(write):
    async def steps(screen):
        pane = screen.app._pane
        await screen.press("space")
        assert pane.scroll_offset.y > 20 and screen.cursor == 0
        await screen.press("b")
        assert pane.scroll_offset.y == 0
        await screen.press("tab", "down", "down")
        assert pane.scroll_offset.y == 2 and screen.cursor == 0
        await screen.press("j")
        assert screen.cursor == 1 and pane.scroll_offset.y == 0  # another row begins at its top

    drive(steps, write([chat("long", "line\n" * 200), chat("short")]))


def test_raw_shows_the_row_as_json_and_back(write, pool):
    async def steps(screen):
        assert '"role": "user"' not in screen.row
        await screen.press("r")
        assert json.loads(screen.row) == chat("How are you?", "Well [1].")
        await screen.press("r")
        assert "<|im_start|>user" in screen.row

    drive(steps, write([chat("How are you?", "Well [1].")]), pool, size=(160, 48))


def test_token_view_marks_the_end_of_each_token(write, pool):
    async def steps(screen):
        size = screen.app._header.row_size
        assert size.num_tokens > 10 and "¦" not in screen.row
        await screen.press("t")
        assert screen.row.count("¦") == size.num_tokens and "⏎" in screen.row
        shaded = {"shade" in run.kinds for line in screen.app._pane.lines for run in line}
        assert shaded == {True, False}
        await screen.press("t")
        assert "¦" not in screen.row

    drive(steps, write([chat("How are you?", "I am well.")]), pool)


def test_without_a_model_chats_are_shown_as_they_stand(write):
    async def steps(screen):
        assert screen.row.split("\n")[:5] == ["user", "How are you?", "", "assistant", "I am well."]
        assert screen.trained == [] and "--model DIR" in screen.text
        await screen.press("t")
        assert "--model" in screen.said and "¦" not in screen.row

    drive(steps, write([chat("How are you?", "I am well.")]))


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_both_halves_have_room(write, pool, size):
    async def steps(screen):
        assert all(len(line) <= size[0] for line in screen.lines) and len(screen.lines) == size[1]
        assert screen.app._rows.display and screen.app._pane.width > 40
        for said in ("row 1 of 30", "question 7", "question 0<|im_end|>", "Search", "Quit", "trained"):
            assert said in screen.text
        await screen.press("l")
        assert not screen.app._rows.display and screen.app._pane.width > size[0] - 6
        await screen.press("j")
        assert "question 1" in screen.row
        await screen.press("l")
        assert screen.app._rows.display and screen.app._rows.has_focus

    drive(steps, write([chat(f"question {i}") for i in range(30)]), pool, size)


def test_tiny_terminal_shows_one_half_at_a_time(write, pool):
    file = write([chat(f"question {i}") for i in range(30)])

    async def main():
        app = PreviewApp(describe_file(file), pool, "messages")
        async with app.run_test(size=(40, 12)) as pilot:
            screen = Screen(app, pilot)
            await screen.until(lambda: "question 5" in screen.text)
            assert not app._pane.display
            await pilot.press("j")
            await screen.press("enter")
            assert "question 1" in screen.row and not app._rows.display and "<|im_start|>" in screen.text
            await screen.press("j")
            assert "question 2" in screen.row
            await pilot.press("tab")
            await pilot.pause()
            assert app._rows.display and app._rows.has_focus and screen.cursor == 2
            for size in ((20, 5), (10, 4), (120, 30)):
                await pilot.resize_terminal(*size)
                await pilot.pause()
            await screen.settle()
            assert "question 2" in screen.row and app._pane.display

    asyncio.run(main())


def test_help_lies_over_the_rows_and_leaves_with_escape(write):
    async def steps(screen):
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, HelpScreen)
        screen.app.on_index_grew()  # messages still arrive
        await screen.pilot.press("escape")
        await screen.pilot.pause()
        assert not isinstance(screen.app.screen, HelpScreen) and screen.app.is_running

    drive(steps, write([chat("x")]))


def test_rows_cut_by_the_length_limit_say_so(write, pool):
    async def steps(screen):
        [cut] = [place for place, line in enumerate(screen.row.split("\n")) if "cut here, at 200 tokens" in line]
        assert any(is_trained(line) for line in screen.app._pane.lines[:cut])
        assert not any(is_trained(line) for line in screen.app._pane.lines[cut:])
        assert "of 200 tokens trained" in screen.header
        await screen.press("j")
        assert "cut here" not in screen.row

    drive(steps, write([chat("x", "word and more " * 200), chat("short")]), pool)

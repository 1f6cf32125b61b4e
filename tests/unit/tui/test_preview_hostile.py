"""The browser of rows when something is against it: hostile content, broken models, disks, our own bugs."""

import asyncio
import threading
import time

import pytest
from preview_screen import Screen, chat, drive

from xtuner.data.sources import describe_file
from xtuner.errors import DataError, ModelError
from xtuner.tui.preview import index as index_module
from xtuner.tui.preview.app import PreviewApp, browse

HOSTILE = "\x1b[31mred \x1b]0;title\x07 [bold]markup[/bold] [@click=quit]x[/] \u202eevil\u202c \x9b2J \u2066iso"
UNSAFE = set("\x1b\x07\x9b\u202e\u202c\u2066")


@pytest.mark.parametrize("key", ["q", "escape"])
def test_leaves_at_once_even_while_the_tokenizer_works(write, key):
    go_on = threading.Event()

    class StuckPool:
        def show(self, job):
            go_on.wait(30)
            raise DataError("too late")

    file = write([chat("x")])

    async def main():
        app = PreviewApp(describe_file(file), StuckPool(), "messages")
        async with app.run_test() as pilot:
            screen = Screen(app, pilot)
            await screen.until(lambda: "reading row 1" in screen.row)
            await pilot.press(key)
            await pilot.pause()
            assert not app.is_running or app._exit

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 10
    go_on.set()


def test_a_model_that_fails_is_named_and_the_chat_is_shown_all_the_same(write):
    asked = []

    class BrokenPool:
        def show(self, job):
            asked.append(job)
            raise ModelError("the model has no chat template", hint="pass --chat-template")

    async def steps(screen):
        assert screen.row.startswith("✗ error: the model has no chat template\n  hint: pass --chat-template")
        assert "How are you?" in screen.row
        await screen.press("j")
        assert "no chat template" in screen.row and "second" in screen.row and len(asked) == 1

    drive(steps, write([chat("How are you?"), chat("second")]), BrokenPool())


def test_a_bug_in_a_thread_is_raised_and_not_hidden(write, monkeypatch):
    class BuggyPool:
        def show(self, job):
            raise ZeroDivisionError("ours")

    path = write([chat("x")])
    app = PreviewApp(describe_file(path), BuggyPool(), "messages")

    async def main():
        async with app.run_test() as pilot:
            for _ in range(500):
                if app.crash is not None:
                    return
                await pilot.pause(0.01)

    asyncio.run(main())
    assert isinstance(app.crash, ZeroDivisionError)


def test_a_disk_that_fails_is_a_data_error(write, monkeypatch):
    def fail(self, row, **more):
        raise OSError(5, "Input/output error")

    app_run = PreviewApp.run
    monkeypatch.setattr(PreviewApp, "run", lambda self: app_run(self, headless=True))
    path = write([chat("x")])
    file = describe_file(path)
    monkeypatch.setattr(index_module.OffsetIndex, "read", fail)
    with pytest.raises(DataError, match="Input/output error"):
        browse(file, None, "messages")


def test_a_file_that_cannot_be_opened_is_a_data_error(write):
    path = write([chat("x")])
    file = describe_file(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        browse(file, None, "messages")


def test_hostile_content_is_escaped_and_no_markup(write, pool):
    assert set(HOSTILE) >= UNSAFE

    async def steps(screen):
        for keys in ((), ("t",), ("t", "r")):
            await screen.press(*keys)
            assert not UNSAFE & set(screen.text) and "\\x1b" in screen.text
        await screen.press("r", "slash")
        await screen.type("[bold]")
        await screen.until(lambda: screen.app._seeker.matches.is_done)
        await screen.settle()
        assert "[bold]" in screen.marked and "/[bold]" in screen.said
        assert "[@click=quit]x[/]" in screen.row and "\\u202eevil" in screen.row
        await screen.press("j")
        await screen.until(lambda: "UNKNOWN_ROLE" in screen.row)
        assert not UNSAFE & set(screen.text)

    drive(steps, write([chat(HOSTILE, HOSTILE), [{"role": HOSTILE, "content": HOSTILE}]]), pool, (160, 48))


def test_hostile_file_name_is_escaped(write):
    async def steps(screen):
        assert not UNSAFE & set(screen.text) and "\\x1b[31m" in screen.header and "[bold]" in screen.header

    drive(steps, write([chat("x")], name="\x1b[31m[bold]\u202e.jsonl"), size=(200, 20))

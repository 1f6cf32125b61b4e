"""Going to other rows than the next: search, numbers, errors, also while the file is still being read."""

import asyncio
import json
import threading
import time

from preview_screen import Screen, chat, drive
from textual import events

from xtuner.data.sources import describe_file
from xtuner.tui.preview import index as index_module
from xtuner.tui.preview.app import PreviewApp
from xtuner.tui.preview.offsets import LineScanner


def test_search_finds_wraps_and_goes_back(write):
    rows = [chat(f"question {i}") for i in range(300)]
    rows[40], rows[120], rows[250] = chat("a Straße here"), chat("x", "STRASSE, straße!"), chat("y", "Die STRAßE.")

    async def steps(screen):
        await screen.press("slash")
        assert screen.app._prompt.is_open
        await screen.type("straße")
        await screen.until(lambda: screen.app._seeker.matches.is_done)
        await screen.settle()
        assert screen.cursor == 40 and screen.marked == ["Straße"] and "match 1 of 3" in screen.said
        visited = []
        for key in ("n", "n", "n", "N", "N"):
            await screen.press(key)
            visited.append(screen.cursor)
        assert visited == [120, 250, 40, 250, 120]
        assert screen.marked == ["straße"]  # not the one with SS
        [listed] = [line for line in screen.lines if " 121/" in line]
        assert "▌" not in listed

    drive(steps, write(rows))


def test_search_finds_what_is_written_as_escapes(write):
    escaped = json.dumps(chat('中文 "quoted" 😀'))
    assert "中" not in escaped

    async def steps(screen):
        for text in ("中文", '文 "quoted"', "😀"):
            await screen.press("home", "slash")
            await screen.type(text)
            await screen.until(lambda: screen.app._seeker.matches.is_done)
            await screen.settle()
            assert screen.cursor == 2, text
            assert screen.marked == [text]

    drive(steps, write([chat("a"), chat("b"), escaped, chat("c")]))


def test_search_without_a_match_stays_and_says_so(write):
    async def steps(screen):
        await screen.press("n")
        assert "nothing was searched for" in screen.said
        await screen.press("j", "slash")
        await screen.type("not there")
        await screen.until(lambda: "in no row" in screen.said)
        assert screen.cursor == 1
        await screen.press("n")
        assert screen.cursor == 1
        await screen.press("slash", "escape")
        assert not screen.app._prompt.is_open and screen.app.is_running

    drive(steps, write([chat("a"), chat("b")]))


def test_jump_goes_to_a_line_blank_ones_counted(write):
    rows = [chat(f"question {i}") for i in range(100)]
    rows.insert(10, "")
    rows.insert(11, "  \t")

    async def steps(screen):
        await screen.press("g")
        await screen.type("50")
        assert screen.cursor == 47 and "question 47" in screen.row and "line 50, row 48 of 100" in screen.header
        await screen.press("colon")
        await screen.type("11")
        assert screen.cursor == 10 and "line 11 is blank" in screen.said
        await screen.press("g")
        await screen.type("9999")
        assert screen.cursor == 99 and "this is the last" in screen.said

    drive(steps, write(rows))


def test_error_rows_are_marked_found_and_explained(write, pool):
    rows = [chat(f"question {i}") for i in range(200)]
    rows[90], rows[150] = '{"messages": [broken', [{"role": "bot", "content": "x"}]
    rows[3] = [{"role": "tool", "content": "the demo's template refuses this"}, *chat("x")]

    async def steps(screen):
        await screen.press("e")
        await screen.until(lambda: screen.cursor == 90)
        await screen.settle()
        assert screen.row.startswith("✗ error INVALID_JSON") and "hint:" in screen.row and "[broken" in screen.row
        assert any(" 91✗" in line for line in screen.lines)
        await screen.press("e")
        await screen.until(lambda: screen.cursor == 150)
        await screen.settle()
        assert "UNKNOWN_ROLE" in screen.row
        await screen.press("e")
        await screen.until(lambda: screen.cursor == 90)  # what the template refuses is not known yet
        await screen.press("g")
        await screen.type("4")
        assert "TEMPLATE_REFUSED" in screen.row
        await screen.press("home", "e")
        await screen.until(lambda: screen.cursor == 3)

    drive(steps, write(rows), pool)


def test_no_row_in_error_is_said(write):
    async def steps(screen):
        await screen.press("j", "e")
        await screen.until(lambda: "no row in error among 5" in screen.said)
        assert screen.cursor == 1

    drive(steps, write([chat(f"question {i}") for i in range(5)]))


def test_search_goes_on_where_the_file_is_still_being_read(write, monkeypatch):
    rows = [chat(f"question {i}") for i in range(5_000)]
    rows[4_900] = chat("needle")
    go_on, scan = threading.Event(), LineScanner.scan
    monkeypatch.setattr(
        LineScanner, "scan", lambda self, size: (self.position < 2**16 or go_on.wait(30)) and scan(self, 2**16)
    )
    file = write(rows)

    async def main():
        app = PreviewApp(describe_file(file), None, "messages")
        async with app.run_test() as pilot:
            screen = Screen(app, pilot)
            await screen.settle()
            await screen.press("slash", *"needle", "enter")
            await pilot.pause(0.2)
            assert screen.cursor == 0 and "search" in screen.said
            go_on.set()
            await screen.until(lambda: screen.cursor == 4_900)

    asyncio.run(main())


def test_keys_typed_at_once_after_the_slash_belong_to_the_search(write):
    async def steps(screen):
        driver = screen.app._driver
        for key in ("slash", "l", "q", "e", "slash", "enter"):  # in one go, as over a slow line
            driver.send_message(events.Key(key, "/" if key == "slash" else key if len(key) == 1 else None))
        await screen.until(lambda: "/lqe/: in no row" in screen.said)
        assert screen.app._rows.display and screen.app.is_running

    drive(steps, write([chat("x")]))


def test_list_is_usable_while_a_large_file_is_still_being_read(write, monkeypatch):
    file = write([chat(f"question {i}") for i in range(200_000)])
    go_on, scan = threading.Event(), LineScanner.scan
    num_scans = 0

    def slow_scan(self, size):
        nonlocal num_scans
        num_scans += 1
        if num_scans > 3:
            assert go_on.wait(30)
        return scan(self, 2**16)

    reads = []
    read = index_module.OffsetIndex.read
    monkeypatch.setattr(LineScanner, "scan", slow_scan)
    monkeypatch.setattr(
        index_module.OffsetIndex, "read", lambda self, row, **more: reads.append(row) or read(self, row, **more)
    )

    async def main():
        app = PreviewApp(describe_file(file), None, "messages")
        async with app.run_test(size=(100, 30)) as pilot:
            screen = Screen(app, pilot)
            await screen.settle()
            await screen.until(lambda: num_scans == 4)
            await screen.until(lambda: "so far" in screen.header)
            known = len(app._reader.index)
            assert 1_000 < known < 10_000
            await screen.press("end")
            assert screen.cursor == known - 1 and f"question {known - 1}" in screen.row
            await screen.press("g", *"150000", "enter")
            assert "reading up to line 150,000" in screen.said and screen.cursor == known - 1
            go_on.set()
            await screen.until(lambda: screen.cursor == 149_999)
            await screen.until(lambda: "row 150,000 of 200,000" in screen.header and "so far" not in screen.header)
            await screen.settle()
            assert "question 149999" in screen.row
            began = time.monotonic()
            await screen.press("end", *["pageup"] * 8, "home", *["pagedown"] * 8)
            assert time.monotonic() - began < 15
            await screen.until(lambda: f"question {screen.cursor} " in screen.text)

    asyncio.run(main())
    assert 0 < len(reads) < 5_000  # of 200,000: only what was looked at

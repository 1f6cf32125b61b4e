"""Hostile strings in everything that the dashboard shows: no control reaches the terminal, nothing is markup."""

import json

import pytest
from hostile import CONTROLS, STRINGS, WIDTHLESS
from monitor_runs import RunWriter
from monitor_screen import drive
from rich.cells import cell_len
from tui_pictures import strips_of

from xtuner.run.health import Alert
from xtuner.tui.monitor.session import Session

SIZE = (120, 36)
IN_NAMES = [text for text in STRINGS if text.strip() and "/" not in text and "\0" not in text]


def assert_sane(app, what):
    for strip in strips_of(app):
        shown = strip.text
        assert not (CONTROLS | WIDTHLESS) & set(shown), (ascii(what), ascii(shown))
        assert sum(map(cell_len, shown)) == SIZE[0], (ascii(what), ascii(shown))
        assert not any(segment.style and (segment.style.link or segment.style.meta.get("@click")) for segment in strip)


def storable(text):
    return text.encode("utf-8", "backslashreplace").decode()


async def look_at_all(screen, what):
    for tab in "12345":
        await screen.press(tab)
        assert_sane(screen.app, what)


def test_strings_in_records_keys_and_lines(tmp_path):
    """The record, the options, the message of the status, the keys of values, and every line of a log."""
    writer = RunWriter(tmp_path, num_ranks=1)
    writer.add_steps(60)
    for place, text in enumerate(STRINGS):
        writer.append(storable(text).replace("\n", " ") + "\n")
        writer.say(storable(text), level="ERROR" if place % 2 else "INFO")
    odd_keys = [storable(text).split(" ")[0].replace(":", "") for text in STRINGS[:24]]
    writer.add_steps(2, lambda rank, step: {key: 1.0 for key in odd_keys if key})
    half = [storable(text) for text in STRINGS[:150]]
    writer.write_record(
        model=half[0], dataset=half[1:20], command=half, git={"commit": half[5]}, versions={half[7]: half[3]}
    )
    writer.run.config_json.write_text(json.dumps({storable(text): storable(text) for text in STRINGS}))
    writer.set_state("failed", message=" ".join(half[:40]), host=half[2])

    async def steps(screen):
        await look_at_all(screen, "records")
        await screen.press("5", "end")
        assert_sane(screen.app, "options")
        await screen.press("3", "l")
        for _ in range(20):
            await screen.press("pageup")
            assert_sane(screen.app, "lines")
        await screen.press("1", "enter")
        for _ in range(26):
            await screen.press("down")
            assert_sane(screen.app, "charts")

    drive(steps, tmp_path, SIZE)


@pytest.mark.parametrize("part", range(6))
def test_strings_in_alerts(tmp_path, part, monkeypatch):
    writer = RunWriter(tmp_path)
    writer.add_steps(5)
    texts = iter(STRINGS[part * 50 : part * 50 + 50])
    alerts = [
        Alert(f"{place}", "critical", *group, place % 3)
        for place, group in enumerate(zip(texts, texts, texts, strict=False))
    ]
    monkeypatch.setattr(Session, "_take_alerts", lambda self, found, now: setattr(self, "alerts", alerts))

    async def steps(screen):
        await look_at_all(screen, alerts)
        await screen.press("4")
        for _ in range(4):
            await screen.press("enter")
            assert_sane(screen.app, alerts)
            await screen.press("escape", "down", "down", "down", "down")

    drive(steps, tmp_path, SIZE)


@pytest.mark.parametrize("name", [text for text in map(storable, IN_NAMES) if len(text.encode()) < 200][::8])
def test_strings_in_paths(tmp_path, name):
    work_dir = tmp_path / name
    writer = RunWriter(work_dir)
    writer.add_steps(5)

    async def steps(screen):
        await look_at_all(screen, name)
        await screen.press("r")
        assert_sane(screen.app, name)
        await screen.press("escape")
        screen.app._runs.path = work_dir
        screen.app.say(f"{name}")
        await screen.settle()
        assert_sane(screen.app, name)

    drive(steps, work_dir, SIZE)


def test_bytes_that_are_no_text(tmp_path):
    writer = RunWriter(tmp_path)
    writer.add_steps(5)
    with writer.run.rank_log(0).open("ab") as file:
        file.write(bytes(range(256)) * 20 + b"\n" + b"\xff" * 2_000_000 + b"\n[XTuner][RANK 0]\x00\n")
    writer.add_steps(1)
    writer.run.config_json.write_bytes(b"\xff\x00{")
    writer.run.run_json.write_text("[" * 5000)
    writer.run.status_json.write_text('{"state": 7}')

    async def steps(screen):
        await look_at_all(screen, "bytes")
        assert "step 6/" in screen.header

    drive(steps, tmp_path, SIZE)

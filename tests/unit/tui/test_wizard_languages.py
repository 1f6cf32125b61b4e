"""The guided launch in another language: double-width text keeps its cells, and no word escapes the catalogue."""

import re

import pytest
from rich.cells import cell_len
from wizard_screen import SIZES, drive

import xtuner.language
from xtuner.demo.build import build_demo
from xtuner.language import _, speak
from xtuner.launch.devices import Hardware
from xtuner.tui.wizard.answers import Answer, Answers
from xtuner.tui.wizard.app import WizardApp
from xtuner.tui.wizard.field_row import FieldRow, row_id
from xtuner.tui.wizard.fields import all_fields
from xtuner.tui.wizard.steps import STEPS

KEYS = ("f1", "f2", "f3", "f4", "f5", "f6")
SMALL_CARD = Hardware("cuda", "card", 1, 1.5, 64.0)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return build_demo(tmp_path_factory.mktemp("demo")).model_dir


@pytest.fixture
def here(model_dir, tmp_path, monkeypatch):
    """A directory with a model `m`, and a file `d.jsonl` of two chats without a Latin letter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    (tmp_path / "m").symlink_to(model_dir)
    chat = (
        '[{{"role": "user", "content": "天空为什么是{}的？"}}, {{"role": "assistant", "content": "因为光的散射。"}}]\n'
    )
    (tmp_path / "d.jsonl").write_text(chat.format("蓝色") + chat.format("红色"), encoding="utf-8")
    yield tmp_path
    speak("en")


@pytest.fixture
def given(here):
    return Answers({"load_from": Answer("m", "flag"), "dataset": Answer("d.jsonl", "flag")})


async def _each_step(screen):
    """Show each step whole; its name once it stands there."""
    for key, step in zip(KEYS, STEPS, strict=True):
        await screen.press(key)
        if step.name == "data":
            await screen.until(lambda: screen.app._look is not None and screen.app._look.health is not None)
        await screen.pilot.pause()
        yield step


def test_chinese_keeps_its_cells_and_no_label_is_cut(given):
    speak("zh")

    async def steps(screen):
        for size in SIZES:
            await screen.pilot.resize_terminal(*size)
            async for step in _each_step(screen):
                _check_cells(screen, size)
                _check_labels(screen, step)
            await _check_help(screen)

    drive(steps, given, size=SIZES[0])


def _check_cells(screen, size):
    width, height = size
    assert [cell_len(line) for line in screen.lines] == [width] * height
    for step in STEPS:
        assert _(step.title) in screen.text, step.name
    for binding in WizardApp.BINDINGS:
        assert not binding.show or _(binding.description) in screen.lines[-1], screen.lines[-1]


def _check_labels(screen, step):
    """Names, groups and sources that lie inside the visible part of the questions stand there whole."""
    for label in screen.app.query(f"#{step.name} .group, #{step.name} .source, #{step.name} .name"):
        region, fields = label.region, label.query_ancestor(".fields").region
        if label.display and fields.contains_region(region):
            cells = "".join(screen.lines[region.y])
            shown = _cells(cells, region.x, region.right).strip()
            assert shown == str(label.content), cells


def _cells(line, start, end):
    """The characters of `line` in the cells from `start` to `end`."""
    place, inside = 0, []
    for character in line:
        if start <= place < end:
            inside.append(character)
        place += cell_len(character)
    return "".join(inside)


async def _check_help(screen):
    """The longest help texts can be read whole."""
    await screen.press("f3")
    for key in ("fsdp_config.compute_dtype", "sp_size", "tp_size"):
        screen.app.query_one(f"#{row_id(key)}", FieldRow).take_keys()
        await screen.until(lambda key=key: _squeezed(_(all_fields()[key].about)) in _squeezed(screen.text))


def _squeezed(text):
    return "".join(text.split())


class _FullWidth:
    """A catalogue that has every message, with its letters in full width: letters of half width came past it."""

    def gettext(self, message):
        """`message` with all but its placeholders in full width."""
        parts = re.split(r"(\{[^}]*\})", message)
        return "".join(part if part.startswith("{") else _full_width(part) for part in parts)


def _full_width(text):
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isascii() and letter.isalpha() else letter for letter in text)


# What is the same in every language: names of flags and values, the file and the model, units, keys.
_NAMES = {
    *(word for field in all_fields().values() for word in re.findall("[A-Za-z]+", f"{field.flag} {field.choices}")),
    *re.findall("[A-Za-z]+", "xtuner sft m d.jsonl work_dirs GiB card F1 1e-4 1 x Qwen3ForCausalLM"),
    *re.findall("[A-Za-z]+", "^c esc ^n ^r ^y ^s ^g user assistant <|im_start|> <|im_end|> None"),
}


def test_every_word_of_the_screen_is_in_the_catalogue(given, monkeypatch):
    monkeypatch.setattr(xtuner.language, "_catalogue", _FullWidth())
    given.set("fsdp_config.recompute_ratio", "0", "preset")
    given.set("pack_max_length", "1048576", "preset")
    seen = set()

    async def steps(screen):
        async for _step in _each_step(screen):
            seen.update(re.findall("[A-Za-z]+", screen.text))
        await screen.press("f4")
        await screen.type("lr", "1e-4")
        await screen.pilot.press("ctrl+c")
        await screen.until(lambda: _("Leave without launching?") in screen.text)
        seen.update(re.findall("[A-Za-z]+", screen.text))

    drive(steps, given, size=(160, 48), hardware=SMALL_CARD)
    assert seen - _NAMES == set()


def test_a_word_past_the_catalogue_is_seen():
    assert _FullWidth().gettext("Leave {path:>8} now") == "Ｌｅａｖｅ {path:>8} ｎｏｗ"
    assert "Leave" not in _NAMES

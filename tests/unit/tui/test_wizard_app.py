"""The guided launch, driven as a user drives it, on a small terminal and on a wide one."""

import re
import shlex
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList
from wizard_screen import SIZES, drive

import xtuner
from xtuner.demo.build import build_demo
from xtuner.launch.devices import Hardware
from xtuner.tui.wizard.answers import Answer, Answers, kept_answers
from xtuner.tui.wizard.field_row import FieldRow
from xtuner.v1.config.files import load_values, resolve_config


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return build_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """No models, runs or kept answers of others are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    return tmp_path


@pytest.fixture
def given(demo):
    return Answers(
        {
            "load_from": Answer(str(demo.model_dir), "flag"),
            "dataset": Answer(shlex.quote(str(demo.dataset)), "flag"),
        }
    )


@pytest.mark.parametrize("size", SIZES)
def test_from_nothing_to_a_launch_by_keys_alone(demo, size):
    async def steps(screen):
        assert screen.step == "model" and "F1·" in screen.text.replace(" ", "") and "???" in screen.text
        await screen.press(*str(demo.model_dir))
        await screen.until(lambda: "OK: this model can be trained" in screen.text)
        await screen.press("ctrl+n")
        assert screen.step == "data"
        await screen.press(*str(demo.dataset))
        await screen.until(lambda: "449 rows" in screen.text)
        assert "???" not in screen.text
        await screen.press("ctrl+n", "ctrl+n")
        assert screen.step == "training"
        await screen.type("total_step", "7")
        await screen.press("f6")
        await screen.wait_for("ready to launch")
        assert "--total-step=7" in screen.one_line
        await screen.press("ctrl+g")

    plan = drive(steps, size=size)
    assert plan.config == resolve_config(
        {"load_from": str(demo.model_dir), "dataset": [str(demo.dataset)], "total_step": 7}
    )
    assert plan.nproc_per_node == 1


@pytest.mark.parametrize("size", SIZES)
def test_each_step_asks_what_it_should(given, size):
    seen = {
        "f1": ("model-cfg", "OK: this model can be trained"),
        "f2": ("mask-policy", "messages"),
        "f3": ("cpu-offload", "on each process, estimated"),
        "f4": ("preset", "quick look: 20 steps"),
        "f5": ("checkpoint-interval", "a checkpoint"),
        "f6": ("Model", "xtuner sft --load-from="),
    }

    async def steps(screen):
        for key, words in seen.items():
            await screen.press(key)
            for word in words:
                await screen.until(lambda word=word: word in screen.one_line)
            assert f"{key.upper()}" in screen.text and "▸" in screen.text

    assert drive(steps, given, size=size) is None


@pytest.mark.parametrize("size", SIZES)
def test_going_back_and_forth_keeps_answers(given, size):
    async def steps(screen):
        await screen.press("f4")
        await screen.type("lr", "1e-4")
        await screen.press("f2", "f5", "escape")
        assert screen.step == "data"
        await screen.press("escape")
        assert screen.step == "training"
        await screen.until(lambda: "0.0001" in screen.one_line or "1e-4" in screen.one_line)
        await screen.press("escape")
        assert screen.step == "model"
        await screen.press("escape")
        assert screen.step == "model" and screen.answers.text("lr") == "1e-4"

    drive(steps, given, size=size)
    assert kept_answers().text("lr") == "1e-4"


def test_who_types_fast_loses_no_key(given):
    async def steps(screen):
        await screen.app.action_go("output")
        field = screen.app.query_one("#row-work_dir Input", Input)
        assert screen.app.focused is field
        with field.prevent(Input.Changed):  # it comes when the next keys are there already
            field.value = "runs-3"
        screen.app.on_field_row_edited(FieldRow.Edited("work_dir", "runs"))
        assert field.value == "runs-3" and screen.answers.text("work_dir") == "runs"
        await screen.settle()

    drive(steps, given)


def test_a_flag_is_marked_and_an_answer_too(given):
    async def steps(screen):
        assert screen.lines[1].rstrip().endswith("flag")
        await screen.press("f4")
        await screen.type("lr", "1e-4")
        [line] = [line for line in screen.lines if line.strip().startswith("lr ")]
        assert line.rstrip().endswith("you")

    drive(steps, given)


def test_errors_stand_in_place_and_keep_the_run_from_starting(given):
    async def steps(screen):
        await screen.press("f4")
        await screen.type("lr", "-1")
        assert "✗ --lr: input should be greater than 0 (value: '-1')" in screen.one_line
        assert "F4✗" in screen.text
        await screen.press("f6", "ctrl+g")
        await screen.until(lambda: screen.step == "training")
        await screen.type("lr", "1e-3")
        assert "✗" not in screen.lines[0]

    assert drive(steps, given) is None


def test_a_hub_cache_is_one_key_from_its_snapshot(demo, tmp_path):
    repo = tmp_path / "models--org--tiny"
    (repo / "snapshots").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").symlink_to(demo.model_dir)

    async def steps(screen):
        await screen.press(*str(repo))
        await screen.wait_for("HUB_CACHE_REPO")
        assert "F1✗" in screen.text
        await screen.press("ctrl+r")
        assert screen.answers.text("load_from") == str(repo / "snapshots" / "abc")
        await screen.wait_for("OK: this model can be trained")

    drive(steps)


def test_models_on_this_machine_can_be_taken_from_the_list(demo, tmp_path, monkeypatch):
    (tmp_path / "local").symlink_to(demo.model_dir)

    async def steps(screen):
        await screen.wait_for("local  (in this directory)")
        screen.app.query_one(OptionList).focus()
        await screen.press("down", "enter")
        assert (screen.answers.text("load_from"), screen.answers.source("load_from")) == ("local", "detected")

    drive(steps)


def test_samples_show_what_is_trained(given):
    async def steps(screen):
        await screen.press("f2")
        await screen.wait_for("449 rows")
        await screen.until(lambda: "▌" in screen.text)
        trained = [line for line in screen.lines if "▌" in line]
        assert any("Honeybees are insects" in line for line in trained)
        assert not any("What kind of animals" in line for line in trained)

    drive(steps, given, size=(160, 48))


def test_rows_in_error_stop_the_launch(demo, tmp_path):
    data = tmp_path / "bad.jsonl"
    data.write_text('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]\n{"messages": 3}\n')
    answers = Answers({"load_from": Answer(str(demo.model_dir), "flag"), "dataset": Answer(str(data), "flag")})

    async def steps(screen):
        await screen.press("f2")
        await screen.until(lambda: "the messages are a number, not a list" in screen.one_line)
        await screen.press("f6", "ctrl+g")
        await screen.until(lambda: screen.step == "data")

    assert drive(steps, answers) is None


def test_one_key_makes_it_fit(given):
    given.set("pack_max_length", "1048576")
    given.set("fsdp_config.recompute_ratio", "0")
    small = Hardware("cuda", "card", 1, 4.0, 64.0)

    async def steps(screen):
        await screen.press("f3")
        await screen.wait_for("F3!")
        await screen.press("ctrl+r")
        await screen.wait_for("F3✓")
        assert "fix" in {screen.answers.source(key) for key in ("pack_max_length", "fsdp_config.recompute_ratio")}

    drive(steps, given, size=(80, 24), hardware=small)


def test_presets_and_choices_answer_by_arrows(given):
    async def steps(screen):
        await screen.press("f4")
        screen.app.query_one("#preset").focus()
        await screen.press("right")
        assert (screen.answers.text("total_step"), screen.answers.source("total_step")) == ("20", "preset")
        screen.app.query_one("#row-optimizer Choice").focus()
        await screen.press("left")
        assert screen.answers.text("optimizer") == "muon"
        await screen.press("right")
        assert screen.answers.source("optimizer") == "default"

    drive(steps, given)


def test_the_command_is_copied_and_the_file_does_the_same(given, tmp_path, demo):
    copied = []

    async def steps(screen):
        screen.app.copy_to_clipboard = copied.append
        await screen.press("f4")
        await screen.type("lr", "1e-4")
        await screen.press("ctrl+y", "ctrl+s", "ctrl+s")

    drive(steps, given)
    assert copied == [
        shlex.join(["xtuner", "sft", f"--load-from={demo.model_dir}", f"--dataset={demo.dataset}", "--lr=0.0001"])
    ]
    assert load_values(tmp_path / "sft.yaml") == load_values(tmp_path / "sft-2.yaml")
    assert resolve_config({}, tmp_path / "sft.yaml") == given.config()


def test_leaving_asks_only_where_something_would_be_lost(given):
    async def at_once(screen):
        await screen.pilot.press("ctrl+c")

    assert drive(at_once, given.copy()) is None

    async def after_an_answer(screen):
        await screen.press("f4")
        await screen.type("lr", "1e-4")
        await screen.press("ctrl+c")
        assert "Leave without launching?" in screen.text
        await screen.press("escape")
        assert "Leave without launching?" not in screen.text and screen.step == "training"
        await screen.press("ctrl+c")
        await screen.pilot.press("y")

    assert drive(after_an_answer, given.copy()) is None
    assert kept_answers().text("lr") == "1e-4"

    async def twice(screen):
        await screen.press("f4")
        await screen.type("lr", "2e-4")
        await screen.press("ctrl+c")
        assert "Leave without launching?" in screen.text
        await screen.pilot.press("ctrl+c")

    assert drive(twice, given) is None
    assert kept_answers().text("lr") == "2e-4"


def test_hostile_paths_do_not_reach_the_terminal(demo, tmp_path):
    (tmp_path / "evil\x1b]0;x\x07").symlink_to(demo.model_dir)
    answers = Answers({"load_from": Answer(str(tmp_path / "evil\x1b]0;x\x07"), "flag")})

    async def steps(screen):
        for key in ("f1", "f6"):
            await screen.press(key)
            await screen.until(lambda: "\\x1b]0;x" in screen.text.replace("\n", ""))
            assert "\x1b" not in screen.text

    drive(steps, answers, size=(160, 48))


def test_choices_are_read_whole_where_the_panel_first_stands_beside_them(given):
    async def steps(screen):
        await screen.press("f2")
        assert {"‹ all-assistant ›", "‹ truncate ›", "‹ best-fit ›"} <= {
            words for line in screen.lines for words in re.findall("‹.*?›", line)
        }

    assert drive(steps, given, size=(120, 32)) is None


@pytest.mark.parametrize("size", [(40, 12), (10, 4), (119, 24)])
def test_small_and_odd_terminals_do_no_harm(given, size):
    async def steps(screen):
        for key in ("f1", "f2", "f3", "f4", "f5", "f6"):
            await screen.press(key)

    assert drive(steps, given, size=size) is None


def test_steps_are_timed_beside_the_screen(given, tmp_path, monkeypatch):
    """Real steps, once to their end and once until the key that ends them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("PYTHONPATH", str(Path(xtuner.__file__).parents[1]))
    (tmp_path / "scratch").mkdir()
    given.set("total_step", "40")

    async def steps(screen):
        await screen.press("f6")
        await screen.wait_for("Ctrl+T runs 5 steps to estimate it")
        await screen.press("ctrl+t")
        await screen.until(lambda: "Ctrl+T ends it" in screen.one_line)
        await screen.press("f1", "f6")  # the screen goes on meanwhile
        await screen.until(lambda: re.search(r"about 0:\d\d:\d\d \(h:mm:ss\): 40 steps of", screen.one_line))
        assert re.search(r"steps of [\d.]+ s, [\d,]+ tokens/s", screen.one_line)
        await screen.press("ctrl+t")
        await screen.until(lambda: re.search(r"step \d of 6", screen.one_line) or "starting" in screen.one_line)
        await screen.press("ctrl+t")
        await screen.wait_for("Ctrl+T runs 5 steps to estimate it")

    drive(steps, given)
    assert not list((tmp_path / "scratch").glob("xtuner-*")) and not (tmp_path / "work_dirs").exists()


def test_what_is_not_ready_is_not_timed(demo):
    async def steps(screen):
        await screen.press("f6", "ctrl+t")
        assert screen.step == "review" and "which model is to be trained?" in screen.one_line
        assert not screen.app._step_timer.is_running

    drive(steps)

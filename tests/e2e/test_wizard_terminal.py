"""The guided launch in a real pseudo-terminal: plain prompts to a finished run, and the screen opened and left."""

import json

import pytest
from commands import run
from terminals import ScreenTerminal, Terminal

from xtuner.demo.build import build_demo
from xtuner.run.layout import newest_run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return build_demo(tmp_path_factory.mktemp("demo"))


def _answer(terminal, prompt, text):
    terminal.read_until(prompt)
    terminal.type(f"{text}\r")


def test_plain_prompts_end_in_a_run(demo, tmp_path):
    work_dir = tmp_path / "runs"
    with Terminal("sft", "--plain", "--pack-max-length", 512, "--work-dir", work_dir) as terminal:
        terminal.read_until("Step 1 of 6: Model")
        _answer(terminal, "--load-from: ", demo.model_dir.parent)  # one level too high
        terminal.read_until("PARENT_OF_MODELS")
        _answer(terminal, "q leave: ", "f")
        terminal.read_until("OK: this model can be trained")
        _answer(terminal, "q leave: ", "")
        _answer(terminal, "--dataset (Enter keeps none): ", "/nowhere.jsonl")
        terminal.read_until("error: there is no data file /nowhere.jsonl")
        _answer(terminal, "q leave: ", "1")
        _answer(terminal, "--dataset (Enter keeps /nowhere.jsonl): ", demo.dataset)
        terminal.read_until("449 rows")
        _answer(terminal, "q leave: ", "")
        terminal.read_until("memory: about")
        _answer(terminal, "q leave: ", "1")
        _answer(terminal, "--nproc-per-node (Enter keeps none): ", "0")
        terminal.read_until("--nproc-per-node: input should be greater than or equal to 1")
        _answer(terminal, "--nproc-per-node (Enter keeps none): ", "1")
        _answer(terminal, "q leave: ", "")
        terminal.read_until("Step 4 of 6: Training")
        _answer(terminal, "q leave: ", "1")
        _answer(terminal, "--total-step (Enter keeps none): ", "1")
        terminal.read_until("1. --total-step: 1 (you)")
        _answer(terminal, "q leave: ", "")
        terminal.read_until(f"1. --work-dir: {work_dir} (flag)")
        _answer(terminal, "q leave: ", "")
        terminal.read_until("ready to launch")
        terminal.read_until("the command that does the same:")
        _answer(terminal, "q leaves: ", "t")
        terminal.read_until("step 6 of 6; Ctrl+C ends it")
        terminal.read_until("duration: about 0:")
        _answer(terminal, "q leaves: ", "")
        exit_code, shown = terminal.read_to_end()
    assert exit_code == 0 and "Step 1/1" in shown, shown
    assert newest_run(work_dir).latest_export.is_dir()


def test_plain_prompts_are_left_at_any_time_and_gone_on_with(demo, tmp_path):
    with Terminal("sft", "--plain") as terminal:
        _answer(terminal, "--load-from: ", demo.model_dir)
        _answer(terminal, "q leave: ", "q")
        exit_code, shown = terminal.read_to_end()
    assert exit_code == 0 and "xtuner sft --continue" in shown
    with Terminal("sft", "--plain", "--continue") as terminal:
        terminal.read_until(f"1. --load-from: {demo.model_dir} (you)")
        terminal.read_until("q leave: ")
        terminal.type("\x04")
        assert terminal.read_to_end()[0] == 0


def test_the_screen_opens_without_flags_and_gives_the_terminal_back():
    with Terminal("sft", TERM="xterm-256color") as terminal:
        terminal.read_until("\x1b[?1049h")
        terminal.read_until("load-from")
        terminal.type("\x03")
        exit_code, shown = terminal.read_to_end()
    assert exit_code == 0 and "\x1b[?1049l" in shown and "nothing was launched" in shown


F4, F5, F6 = "\x1bOS", "\x1b[15~", "\x1b[17~"
CTRL_G, CTRL_N, CTRL_U = "\x07", "\x0e", "\x15"


@pytest.mark.parametrize(
    ("language", "size", "words"),
    [
        ("zh", (80, 24), ("要训练哪个模型？", "✓ 通过：这个模型可以训练", "共 449 条样本", "✓ 可以启动")),
        ("en", (160, 48), ("which model is to be trained?", "✓ OK: this model can be trained", "449 rows", "✓ ready")),
    ],
)
def test_from_nothing_to_a_trained_model_by_keys_alone(demo, tmp_path, language, size, words):
    which, can_be_trained, rows, is_ready = words
    with ScreenTerminal("sft", size=size, TERM="xterm-256color", LANGUAGE=language) as terminal:
        terminal.wait_for_text(which)
        terminal.type(str(demo.model_dir))
        terminal.wait_for_text(can_be_trained)
        terminal.type(CTRL_N)
        terminal.wait_for_text("dataset-format")
        terminal.type(str(demo.dataset))
        terminal.wait_for_text(rows)
        terminal.type(F4)
        terminal.wait_for_text("total-step")
        terminal.type("2")
        terminal.wait_for_text("--total-step=2")
        terminal.type(F5)
        terminal.wait_for_text("work-dir")
        terminal.type(CTRL_U)
        terminal.wait_for(lambda: not any("work-dir " in line and "work_dirs" in line for line in terminal.lines))
        terminal.type(f"{tmp_path}/r")
        terminal.wait_for_text(f"{tmp_path.name}/r")  # its end: the path may be long
        terminal.type(F6)
        terminal.wait_for_text(is_ready)
        terminal.type(CTRL_G)
        terminal.wait_for_text("[1 Overview]")  # the dashboard of the run
        terminal.wait_for_text("FINISHED")
        terminal.type("q")
        terminal.wait_for_text("hf-latest")
        assert terminal.read_to_end()[0] == 0
    run = newest_run(tmp_path / "r")
    assert [json.loads(line)["step"] for line in run.rank_metrics(0).read_text().splitlines()][-1] == 2
    assert json.loads(run.config_json.read_text())["total_step"] == 2


def test_without_a_terminal_every_missing_flag_is_named():
    done = run("xtuner", "sft")
    assert done.returncode == 2 and done.stdout == ""
    assert "no model is given and no data is given" in done.stderr
    assert "--load-from MODEL_DIR --dataset FILE.jsonl" in done.stderr

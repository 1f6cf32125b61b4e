"""Every wrong answer in the wizard has the words that `xtuner sft` has for the same flags."""

import re
import shlex
import shutil

import pytest

from xtuner.launch.devices import Hardware
from xtuner.launch.plan import LaunchPlan
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.data_look import LookRequest, look_at
from xtuner.tui.wizard.fields import all_fields
from xtuner.tui.wizard.inspection import Inspector, with_look
from xtuner.v1.config import TrainerConfig

INSPECTOR = Inspector(Hardware("cpu", "this machine", 0, 64.0, 64.0), LaunchPlan(TrainerConfig(), nproc_per_node=1))


@pytest.fixture
def wrong_paths(tiny_model, chats, tmp_path):
    """Paths by the name they have in the cases below, each wrong in another way."""
    model = tiny_model("qwen3")
    (tmp_path / "empty").mkdir()
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "model").symlink_to(model)
    snapshots = tmp_path / "models--org--tiny" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "abc").symlink_to(model)
    for name in ("no-weights", "no-tokenizer", "cut-weights", "bad-config"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "no-weights" / "model.safetensors").unlink()
    (tmp_path / "no-tokenizer" / "tokenizer.json").unlink()
    weights = tmp_path / "cut-weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "bad-config" / "config.json").write_text("{")
    (tmp_path / "no-rows.jsonl").touch()
    (tmp_path / "chats.docx").touch()
    return {
        "MODEL": model,
        "CHATS": chats,
        "FILE": chats,
        "HERE": tmp_path,
        "NOTHING": tmp_path / "nothing",
        "CACHED": snapshots.parent,
    }


CASES = [
    # the model
    {"load_from": "NOTHING"},
    {"load_from": "Qwen/Qwen3-8B"},
    {"load_from": "FILE"},
    {"load_from": "HERE/empty"},
    {"load_from": "HERE/parent"},
    {"load_from": "CACHED"},
    {"load_from": "CACHED/snapshots"},
    {"load_from": "HERE/no-weights"},
    {"load_from": "HERE/no-tokenizer"},
    {"load_from": "HERE/cut-weights"},
    {"load_from": "HERE/bad-config"},
    {"load_from": "", "model_cfg": "NOTHING", "tokenizer_path": "MODEL"},
    # the data
    {"dataset": "NOTHING"},
    {"dataset": "HERE/empty"},
    {"dataset": "HERE/*.none"},
    {"datasets": "[{"},
    {"datasets": '[{"path": "x", "ratio": 0}]'},
    {"eval_dataset": "NOTHING"},
    # numbers out of range, and what is no number
    {"lr": "-1"},
    {"lr": "abc"},
    {"lr": "nan"},
    {"total_step": "0"},
    {"total_step": "1.5"},
    {"nproc_per_node": "0"},
    {"nproc_per_node": "two"},
    {"max_length": "0"},
    {"warmup_ratio": "2"},
    {"lora.rank": "-1"},
    {"fsdp_config.recompute_ratio": "1.5"},
    {"checkpoint_interval": "often"},
    # options that contradict each other
    {"total_step": "3", "epoch_num": "1"},
    {"global_batch_size": "3"},
    {"lr_min": "1"},
    {"sp_size": "4"},
    {"tp_size": "3"},
    {"fsdp_config.hsdp_sharding_size": "3"},
    {"early_stopping_patience": "3"},
    {"eval_generations": "2"},
    {"report_to": "no-such-tracker"},
    {"work_dir": "/proc/here"},
]


def _in_place(text, paths):
    for name, path in paths.items():
        text = text.replace(name, str(path))
    return text


def _shown_by_the_command(done):
    """Message and hint; the code of the wizard's findings about a model is not part of either."""
    shown = re.fullmatch(r"(?s).*?error: (.*?)(?:\n\nhint: (.*))?\n", done.stderr)
    assert shown, done.stderr
    return shown[1], shown[2] or ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(f"{key}={text}" for key, text in case.items()))
def test_a_wrong_answer_has_the_words_of_the_command_line(case, wrong_paths, xtuner):
    texts = {"load_from": "MODEL", "dataset": "CHATS", "work_dir": "HERE/runs", "nproc_per_node": "2", **case}
    texts = {key: _in_place(text, wrong_paths) for key, text in texts.items() if text}
    answers = Answers()
    for key, text in texts.items():
        answers.set(key, text)
    remark = INSPECTOR.inspect(answers).first_hindrance()
    done = xtuner("sft", *(f"{all_fields()[key].flag}={text}" for key, text in texts.items()))
    message, hint = _shown_by_the_command(done)
    assert done.exit_code and remark.state == "error"
    assert re.sub("^[A-Z_]+: ", "", remark.text) == message and remark.hint == hint


def test_rows_in_error_have_the_words_of_the_command_line(tiny_model, tmp_path, xtuner):
    data = tmp_path / "bad rows.jsonl"
    good = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]'
    data.write_text(f'{good}\n{{"messages": 3}}\n{good}\n{{"messages": []}}\n')
    answers = Answers()
    answers.set("load_from", str(tiny_model("qwen3")))
    answers.set("dataset", shlex.quote(str(data)))
    answers.set("work_dir", str(tmp_path / "runs"))
    looks = []
    config = answers.config()
    look_at(LookRequest(config, config.load_from), looks.append, lambda: False)
    remark = with_look(INSPECTOR.inspect(answers), looks[-1]).first_hindrance()
    flags = [f"--load-from={config.load_from}", f"--dataset={data}", f"--work-dir={config.work_dir}"]
    assert (remark.text, remark.hint) == _shown_by_the_command(xtuner("sft", *flags))
    assert "and 1 more rows in error" in remark.text

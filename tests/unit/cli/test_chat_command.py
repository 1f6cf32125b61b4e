"""`xtuner chat` as a script calls it: what it takes, what it prints and where, its errors and exit codes."""

import io
import json
import shlex
import shutil
import sys

import peft
import pytest
import scripted_models
import tiny_models
from transformers import AutoModelForCausalLM

from xtuner.run.layout import RunDir, point_latest, point_latest_adapter

REPLY = scripted_models.CHINESE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scripted_models.make_scripted_model(tmp_path_factory.mktemp("model") / "chatty", REPLY)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "endless"
    return scripted_models.make_scripted_model(directory, REPLY, is_endless=True, context_length=128)


@pytest.fixture
def adapter(tiny_model, tmp_path):
    directory = tmp_path / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"))
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(directory)
    return directory


@pytest.fixture
def piped(monkeypatch):
    """`piped(bytes)` is what stdin holds."""

    def pipe(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return pipe


def test_a_reply_is_alone_on_stdout(xtuner, model):
    assert xtuner("chat", model, "-m", "Who are you?") == (0, f"{REPLY}\n", "")


def test_stdin_is_one_question(xtuner, model, piped):
    piped("你好吗？\nAnd one more line.\n".encode())
    done = xtuner("chat", model, "--json")
    piped("你好吗？\nAnd one more line.".encode())
    assert done.exit_code == 0 and json.loads(done.stdout)["reply"] == REPLY
    again = xtuner("chat", model, "--json")
    assert json.loads(again.stdout)["num_prompt_tokens"] == json.loads(done.stdout)["num_prompt_tokens"]
    piped(b"unread")
    assert xtuner("chat", model, "-m", "Hello") == (0, f"{REPLY}\n", "")
    assert sys.stdin.read() == "unread"


def test_json_has_stable_keys(xtuner, model):
    done = xtuner("chat", model, "-m", "Hello", "--json")
    record = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    assert list(record) == ["reply", "reasoning", "num_prompt_tokens", "num_tokens", "seconds", "stop"]
    assert (record["reply"], record["reasoning"], record["num_tokens"], record["stop"]) == (REPLY, "", 13, "end")


def _records(text):
    decoder, records = json.JSONDecoder(), []
    while text.strip():
        record, end = decoder.raw_decode(text.lstrip())
        records.append(record)
        text = text.lstrip()[end:]
    return records


def test_several_messages_are_turns_of_one_conversation(xtuner, model):
    done = xtuner("chat", model, "-m", "One", "-m", "Two", "--json")
    first, second = _records(done.stdout)
    alone = json.loads(xtuner("chat", model, "-m", "Two", "--json").stdout)
    assert second["num_prompt_tokens"] > first["num_prompt_tokens"] + first["num_tokens"]
    assert alone["num_prompt_tokens"] < second["num_prompt_tokens"]
    with_system = json.loads(xtuner("chat", model, "-m", "Two", "--json", "--system", "Be brief.").stdout)
    assert with_system["num_prompt_tokens"] > alone["num_prompt_tokens"]


def test_a_cut_reply_is_said_on_stderr(xtuner, endless):
    done = xtuner("chat", endless, "-m", "Hello", "--max-new-tokens", 9)
    assert (done.exit_code, done.stdout) == (0, "你夏星\n")
    assert done.stderr == "warning: the reply was cut after 9 tokens; --max-new-tokens allows more\n"
    done = xtuner("chat", endless, "-m", "Hello", "--max-new-tokens", 9, "--json")
    assert json.loads(done.stdout)["stop"] == "length" and done.stderr == ""


def test_dropped_turns_are_said(xtuner, endless):
    asked = [argument for number in range(4) for argument in ("-m", f"Question {number}, and what is 7 times 8?")]
    done = xtuner("chat", endless, *asked, "--max-new-tokens", 12)
    assert done.exit_code == 0 and done.stdout == f"{REPLY}\n" * 4
    assert "warning: the oldest turn was dropped, to fit the model's context of 128 tokens\n" in done.stderr
    assert xtuner("chat", endless, *asked[:2], "--max-new-tokens", 12).stderr.count("dropped") == 0


def test_reasoning_is_not_the_reply(xtuner, tmp_path):
    directory = scripted_models.make_scripted_model(
        tmp_path / "thinker", f"<think>go</think>{REPLY}", tags=("<think>", "</think>")
    )
    assert xtuner("chat", directory, "-m", "Hello") == (0, f"{REPLY}\n", "")
    record = json.loads(xtuner("chat", directory, "-m", "Hello", "--json").stdout)
    assert (record["reply"], record["reasoning"], record["num_tokens"]) == (REPLY, "go", 2 + 2 + 12 + 1)


def test_flags_reach_generation(xtuner, tiny_model):
    def reply(*flags):
        done = xtuner("chat", tiny_model("llama"), "-m", "Hello", "--max-new-tokens", 16, *flags)
        assert done.exit_code == 0
        return done.stdout

    hot = ("--temperature", 1.5)
    assert reply("--temperature", 0) == reply("--temperature", 0, "--seed", 5)
    assert reply(*hot, "--seed", 5) == reply(*hot, "--seed", 5) != reply(*hot, "--seed", 6)
    assert reply(*hot, "--seed", 5, "--top-p", "1e-6") == reply("--temperature", 0)
    assert reply("--temperature", 0, "--dtype", "bfloat16", "--device", "cpu")


def test_a_hostile_reply_is_escaped(xtuner, tmp_path):
    directory = scripted_models.make_scripted_model(tmp_path / "hostile", "a\x1b[2J\u202eb")
    done = xtuner("chat", directory, "-m", "Hello")
    assert (done.exit_code, done.stdout) == (0, "a\\x1b[2J\\u202eb\n")
    done = xtuner("chat", directory, "-m", "Hello", "--json")
    assert "\x1b" not in done.stdout and json.loads(done.stdout)["reply"] == "a\x1b[2J\u202eb"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no question on stdin"),
        (b" \n\n", "there is no question on stdin"),
        (b"caf\xe9!", "stdin is not UTF-8 text: invalid continuation byte at byte 3"),
    ],
)
def test_nothing_to_ask_is_a_usage_error(xtuner, model, piped, content, words):
    piped(content)
    code, out, err = xtuner("chat", model)
    assert (code, out) == (2, "") and err.startswith(f"error: {words}\n\nhint: ")


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", " "],
        ["-m", "x", "--temperature", "-1"],
        ["-m", "x", "--top-p", "1.5"],
        ["-m", "x", "--max-new-tokens", "0"],
        ["-m", "x", "--dtype", "int8"],
        ["-m", "x", "--device", "gpu"],
        ["-m", "x", "--unknown"],
    ],
)
def test_wrong_flags_exit_with_2(xtuner, model, flags):
    code, out, err = xtuner("chat", model, *flags)
    assert (code, out) == (2, "") and err


def test_a_device_that_is_not_there_exits_with_5(xtuner, model):
    code, _, err = xtuner("chat", model, "-m", "x", "--device", "cuda:99")
    assert code == 5 and "error: --device cuda:99 is not there: PyTorch sees " in err and "hint: " in err


def test_a_question_longer_than_the_context_exits_with_2(xtuner, endless):
    code, out, err = xtuner("chat", endless, "-m", "What? " * 100)
    assert (code, out) == (2, "") and "the model's context 128" in err


def test_a_model_is_judged_as_by_check_model(xtuner, model, tmp_path):
    code, _, err = xtuner("chat", tmp_path / "nothing", "-m", "x")
    report = json.loads(xtuner("check-model", tmp_path / "nothing", "--json").stdout)
    assert code == 3 and err == f"error: {report['findings'][0]['message']}\n\nhint: {report['findings'][0]['hint']}\n"
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "chat_template.jinja").unlink()
    code, _, err = xtuner("chat", broken, "-m", "x")
    assert code == 3 and "has no chat template" in err


def _export(source, work_dir, step):
    run = RunDir.create(work_dir)
    shutil.copytree(source, run.export(step))
    point_latest(run, step)
    (run.path / "config.json").write_text("{}")  # the options of the run, as the trainer writes them
    return run


def test_a_work_dir_means_its_newest_export(xtuner, model, endless, tmp_path):
    work_dir = tmp_path / "work dir"
    old = _export(endless, work_dir, 10)
    code, out, err = xtuner("chat", old.path, "-m", "x", "--max-new-tokens", 6)
    assert (code, out) == (0, "你夏\n") and err.startswith(f"talking with {old.path / 'hf-10'}\n")
    named = old.path.rename(old.path.with_name("20200101-000000-abcd"))
    new = _export(model, work_dir, 20)
    unfinished = RunDir.create(work_dir)
    newest = unfinished.path.rename(unfinished.path.with_name("20990101-000000-abcd"))
    code, out, err = xtuner("chat", work_dir, "-m", "x")
    assert (code, out, err) == (0, f"{REPLY}\n", f"talking with {new.path / 'hf-20'}\n")
    assert xtuner("chat", new.path / "hf-latest", "-m", "x") == (0, f"{REPLY}\n", "")
    code, _, err = xtuner("chat", newest, "-m", "x")
    assert code == 2 and f"error: the run {newest} has exported no model yet" in err
    assert f"hint: see how far it is: xtuner monitor --once {shlex.quote(str(newest))}" in err
    checkpoint = RunDir(newest).checkpoints / "step-00001200"
    checkpoint.mkdir(parents=True)
    code, _, err = xtuner("chat", newest, "-m", "x")
    hint = f"make one of the checkpoint after step 1,200: xtuner export {shlex.quote(str(checkpoint))} --to MODEL_DIR"
    assert code == 2 and f"hint: {hint}\n" in err
    shutil.rmtree(new.path)
    shutil.rmtree(named)
    code, _, err = xtuner("chat", work_dir, "-m", "x")
    assert code == 2 and f"error: no run in {work_dir} has exported a model yet" in err


def test_an_adapter_is_loaded_with_its_base(xtuner, adapter, tiny_model, tmp_path):
    greedy = ("-m", "Hello", "--max-new-tokens", 16, "--temperature", 0)
    code, out, err = xtuner("chat", adapter, *greedy)
    assert (code, err.count("error")) == (0, 0)
    assert out == xtuner("chat", tiny_model("qwen3"), *greedy).stdout  # peft begins with an adapter that adds nothing
    run = RunDir.create(tmp_path / "runs")
    adapter.rename(run.adapter(7))
    point_latest_adapter(run, 7)
    code, again, err = xtuner("chat", tmp_path / "runs", *greedy)
    assert (code, again) == (0, out) and err.startswith(f"talking with {run.adapter(7)}\n")


def test_a_template_beside_the_adapter_wins(xtuner, adapter):
    prompt = ("-m", "Hello", "--max-new-tokens", 1, "--json")
    before = json.loads(xtuner("chat", adapter, *prompt).stdout)["num_prompt_tokens"]
    tiny_models.write_tokenizer(adapter, "Always be kind and brief.\n" + tiny_models.CHATML)
    after = json.loads(xtuner("chat", adapter, *prompt).stdout)["num_prompt_tokens"]
    assert after > before


def test_what_an_adapter_needs(xtuner, adapter, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)  # as if it were not installed
        code, _, err = xtuner("chat", adapter, "-m", "x")
    assert code == 2 and "needs the package peft" in err and "hint: pip install 'xtuner[lora]'" in err
    config = adapter / "adapter_config.json"
    options = json.loads(config.read_text())
    for base, words in (
        (str(tmp_path / "gone"), "is an adapter, and its base model: there is no model directory"),
        ("org/base", "'org/base' is not a directory here; it looks like a model on the Hub"),
        (None, "names no base model"),
    ):
        config.write_text(json.dumps({**options, "base_model_name_or_path": base}))
        code, _, err = xtuner("chat", adapter, "-m", "x")
        assert code == 3 and words in err and "hint: " in err
    config.write_text("{")
    assert xtuner("chat", adapter, "-m", "x").exit_code == 3


def test_help_has_an_example(xtuner):
    code, out, _ = xtuner("chat", "--help")
    assert code == 0 and "Example:\n" in out and 'xtuner chat Qwen3-0.6B -m "What is 7 times 8?"' in out

"""The wizard without a screen: questions from declarations, answers to config to command and back, real checks."""

import json
import shlex
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.errors import UsageError
from xtuner.language import speak
from xtuner.launch.devices import Hardware
from xtuner.launch.fit import NPROC
from xtuner.launch.plan import LaunchPlan, sft_command
from xtuner.tui.wizard.answers import Answer, Answers, config_yaml, keep, kept_answers, kept_path
from xtuner.tui.wizard.candidates import find_models
from xtuner.tui.wizard.completion import complete
from xtuner.tui.wizard.fields import all_fields
from xtuner.tui.wizard.inspection import Inspector
from xtuner.tui.wizard.steps import CUSTOM, PRESETS, STEPS, apply_preset, preset_of, step_of_error
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.files import resolve_config
from xtuner.v1.config.flags import flag_names, with_flags
from xtuner.v1.config.option import GROUPS

CPU = Hardware("cpu", "this machine", 0, 64.0, 64.0)
TEMPLATE = LaunchPlan(config=TrainerConfig(), nproc_per_node=1)


def _parse(arguments):
    """The config that `xtuner sft ARGUMENTS` resolves."""
    caught = []
    app = typer.Typer(add_completion=False)
    app.command()(with_flags(lambda config, nproc_per_node=typer.Option(None): caught.append((config, nproc_per_node))))
    typer.main.get_command(app)(args=arguments, standalone_mode=False)
    return caught[0]


# --- Questions ---


def test_the_wizard_can_set_every_option_and_asks_each_once():
    asked = [field.flag for step in STEPS for field in step.fields]
    assert sorted(asked) == sorted([*flag_names(), "--nproc-per-node"])
    assert sorted(group for step in STEPS for group in step.groups) == sorted(GROUPS)


def test_questions_say_what_the_declarations_say():
    fields = all_fields()
    assert fields["lr"].default == 6e-5 and fields["lr"].kind == "number" and fields["lr"].help == "Peak learning rate."
    assert fields["max_length"].unit == "tokens"
    assert fields["optimizer"].choices == ("adamw", "adamw-8bit", "muon")
    assert fields["fsdp_config.cpu_offload"].choices == ("yes", "no")
    kinds = {field.key: field.kind for field in fields.values()}
    assert kinds["load_from"] == "path" and kinds["dataset"] == "list" and kinds["datasets"] == "text"


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("lr", "-1", "--lr: input should be greater than 0"),
        ("lr", "abc", "--lr: input should be a valid number"),
        ("total_step", "0", "--total-step: input should be greater than or equal to 1"),
        ("nproc_per_node", "0", "--nproc-per-node: input should be greater than or equal to 1"),
        ("fsdp_config.recompute_ratio", "2", "--fsdp-config.recompute-ratio: input should be less than or equal to 1"),
        ("checkpoint_interval", "often", "--checkpoint-interval: value error, give a number of steps, or a time"),
        ("dataset", "'a", "--dataset: no closing quotation"),
        ("datasets", "[{", "--datasets"),
        ("fsdp_config.cpu_offload", "perhaps", "--fsdp-config.cpu-offload: input should be a valid boolean"),
    ],
)
def test_a_wrong_answer_stays_as_typed_and_names_its_flag(key, text, words):
    answers = Answers()
    answers.set(key, text)
    assert answers.error(key).message.startswith(words) and answers.text(key) == text
    assert list(answers.errors()) == [key]
    assert answers.valid_config() == TrainerConfig()
    with pytest.raises(UsageError):
        answers.plan(TEMPLATE)


def test_what_says_no_more_than_the_default_is_no_answer():
    answers = Answers()
    answers.set("lr", "1e-4")
    assert answers.source("lr") == "you" and answers
    answers.set("lr", "6e-05")
    assert answers.source("lr") == "default" and not answers


# --- Answers to config to command and back ---

_PATHS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)
_SAFE_PATHS = _PATHS.filter(lambda text: not text.startswith("~") and text.strip() == text and str(Path(text)) == text)


def _values(field):
    """Valid values of a question, by its declaration."""
    if field.key in ("seed", "early_stopping_min_delta", "z_loss", "weight_decay", "eval_generations", "lora.rank"):
        return st.integers(0, 10**6)
    special = {
        "checkpoint_interval": st.sampled_from(["7", "90s", "30min", "2h"]),
        "hang_timeout": st.sampled_from(["90s", "30min", "2h", "off"]),
        "datasets": st.lists(
            st.fixed_dictionaries({"path": _SAFE_PATHS, "ratio": st.floats(0.1, 9)}), min_size=1, max_size=2
        ),
        "report_to": st.lists(st.sampled_from(["wandb", "trackio"]), min_size=1, unique=True),
        "lora.target_modules": st.lists(st.sampled_from(["q_proj", "v_proj", "o_proj"]), min_size=1, unique=True),
        "resume": _SAFE_PATHS,
    }
    if field.key in special:
        return special[field.key]
    if field.kind == "choice":
        return st.sampled_from(field.choices)
    if field.kind == "switch":
        return st.booleans()
    if field.kind == "number":
        is_share = isinstance(field.default, float) or field.key == "fsdp_config.recompute_ratio"
        return st.floats(1e-9, 0.99) if is_share else st.integers(2, 10**6)
    return st.lists(_SAFE_PATHS, min_size=1, max_size=3) if field.kind == "list" else _SAFE_PATHS


@st.composite
def _options(draw):
    fields = [field for field in all_fields().values() if field.key != NPROC]
    chosen = draw(st.lists(st.sampled_from(fields), max_size=8, unique_by=lambda field: field.key))
    return {field.key: draw(_values(field)) for field in chosen}


def _config(values):
    from xtuner.tui.wizard.fields import nested

    return resolve_config(nested(values))


@settings(max_examples=60, deadline=None)
@given(_options(), st.integers(1, 8))
def test_answers_command_and_file_give_the_same_config(tmp_path_factory, values, nproc):
    config = _config(values)
    answers = Answers.of_config(config, flags=values, nproc=nproc)
    plan = answers.plan(TEMPLATE)
    assert plan.config == config and plan.nproc_per_node == nproc
    command = shlex.join(sft_command(plan, default_nproc=3))
    assert command == shlex.join(sft_command(Answers.from_json(answers.to_json()).plan(TEMPLATE), default_nproc=3))
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("xtuner", "sft")
    parsed, parsed_nproc = _parse(arguments)
    assert parsed == config and int(parsed_nproc or 3) == nproc
    file = tmp_path_factory.mktemp("yaml") / "run.yaml"
    file.write_text(config_yaml(config, command), encoding="utf-8")
    assert resolve_config({}, file) == config


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\ufeff"])
def test_line_ends_of_unicode_in_a_path_survive_the_file(tmp_path, character):
    config = _config({"load_from": f"a{character}b"})
    (tmp_path / "run.yaml").write_text(config_yaml(config, "xtuner sft"), encoding="utf-8")
    assert resolve_config({}, tmp_path / "run.yaml") == config


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_value_is_read_as_it_is_shown(data):
    field = data.draw(st.sampled_from([field for field in all_fields().values() if field.key != NPROC]))
    value = _config({field.key: data.draw(_values(field))})
    for name in field.key.split("."):
        value = getattr(value, name)
    assert field.parse(field.show(value)) == value


def test_sources_tell_flags_from_files():
    config = resolve_config({"lr": 1e-4, "lora": {"rank": 8}, "seed": 42})
    answers = Answers.of_config(config, flags=["lr"], nproc=2)
    assert [answers.source(key) for key in ("lr", "lora.rank", "seed", NPROC, "lr_min")] == [
        "flag",
        "file",
        "file",
        "flag",
        "default",
    ]


def test_answers_are_kept_and_flags_win_over_them():
    answers = Answers({"lr": Answer("1e-4", "you"), "dataset": Answer("a b.jsonl", "flag")})
    keep(answers)
    assert kept_answers() == answers
    above = kept_answers().with_given(Answers({"lr": Answer("2e-4", "flag")}))
    assert above.text("lr") == "2e-4" and above.text("dataset") == "a b.jsonl"
    for broken in ("{", "[]", '{"schema": 1, "answers": {"lr": 3, "gone": ["1", "you"], "seed": ["1", "nobody"]}}'):
        kept_path().write_text(broken)
        assert not kept_answers()


def test_presets_are_seen_again_and_leave_the_rest_alone():
    answers = Answers()
    answers.set("lr", "1e-4")
    assert preset_of(answers) == CUSTOM
    for preset in PRESETS:
        apply_preset(answers, preset.name)
        assert preset_of(answers) == preset.name and answers.text("lr") == "1e-4"
        answers.config()
    answers.set("epoch_num", "7")
    assert preset_of(answers) == CUSTOM


# --- Checks ---


@pytest.fixture
def ready(tiny_model, chats, tmp_path):
    answers = Answers()
    answers.set("load_from", str(tiny_model("qwen3")))
    answers.set("dataset", shlex.quote(str(chats)))
    answers.set("work_dir", str(tmp_path / "runs"))
    return answers


def _inspect(answers, hardware=CPU):
    return Inspector(hardware, TEMPLATE).inspect(answers)


def test_nothing_answered_is_open_where_something_is_needed():
    inspection = _inspect(Answers())
    assert {step.name: inspection.state(step.name) for step in STEPS} == {
        "model": "open",
        "data": "open",
        "hardware": "ok",
        "training": "ok",
        "output": "ok",
        "review": "open",
    }
    assert not inspection.is_ready and inspection.first_hindrance().step == "model"


def test_good_answers_are_ready(ready):
    inspection = _inspect(ready)
    assert inspection.is_ready and inspection.first_hindrance() is None and inspection.needs.fits
    assert inspection.model.ok and inspection.plan.config == ready.config()


@pytest.mark.parametrize(
    ("key", "text", "step"),
    [
        ("load_from", "/nowhere/model", "model"),
        ("dataset", "/nowhere/chats.jsonl", "data"),
        ("eval_dataset", "/nowhere/chats.jsonl", "training"),
        ("global_batch_size", "3", "training"),
        ("lr_min", "1", "training"),
        ("sp_size", "4", "hardware"),
        ("early_stopping_patience", "3", "training"),
        ("work_dir", "/proc/here", "output"),
        ("lr", "-3", "training"),
    ],
)
def test_wrong_answers_have_the_words_of_the_command_line(ready, key, text, step):
    from xtuner.data.sources import find_files
    from xtuner.errors import XTunerError
    from xtuner.preflight import check_inputs

    ready.set(NPROC, "2")
    ready.set(key, text)
    inspection = _inspect(ready)
    assert inspection.state(step) == "error" and not inspection.is_ready
    with pytest.raises(XTunerError) as caught:
        plan = ready.plan(TEMPLATE)
        check_inputs(plan.config, plan.world_size)
        find_files(plan.config.data_specs + plan.config.eval_specs)
    [remark] = [remark for remark in inspection.of_step(step) if remark.state == "error"]
    assert caught.value.message in remark.text and remark.hint == caught.value.hint


@pytest.mark.parametrize(
    ("make", "code", "meaning"),
    [
        (lambda path: None, "PATH_MISSING", "路径上什么都没有。"),
        (lambda path: path.write_text("x"), "NOT_A_DIRECTORY", "路径是文件，不是目录。"),
        (lambda path: path.mkdir(), "NO_CONFIG", "没有 config.json。"),
    ],
)
def test_findings_mean_something_in_chinese_and_keep_the_words_of_the_command_line(tmp_path, make, code, meaning):
    path = tmp_path / "m"
    make(path)
    answers = Answers({"load_from": Answer(str(path), "flag")})
    [english] = [remark for remark in _inspect(answers).of_step("model") if remark.text.startswith(code)]
    speak("zh")
    try:
        [chinese] = [remark for remark in _inspect(answers).of_step("model") if remark.text.startswith(code)]
    finally:
        speak("en")
    assert chinese.text == english.text.replace(f"{code}: ", f"{code}: {meaning} ") and chinese.hint == english.hint


def test_memory_that_does_not_suffice_comes_with_the_fix(ready):
    ready.set("pack_max_length", "1048576")
    small = Hardware("cuda", "card", 1, 1.5, 64.0)
    inspection = _inspect(ready, small)
    [remark] = inspection.of_step("hardware")
    assert remark.state == "warning" and inspection.fit.changes and inspection.fit.changes[0].flag in remark.hint
    ready.apply(inspection.fit.changes)
    assert _inspect(ready, small).needs.fits
    assert {ready.source(change.key) for change in inspection.fit.changes} == {"fix"}


def test_errors_lead_to_the_step_that_asks_for_it():
    assert step_of_error(UsageError("--lr-min 1 is above --lr 1e-5", hint="")) == "training"
    assert step_of_error(UsageError("no model is given", hint="pass --load-from MODEL_DIR")) == "model"
    assert step_of_error(UsageError("something else", hint="")) == "review"


# --- Paths ---


def test_models_are_found_in_cache_runs_and_directory(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    here = tmp_path / "here" / "local"
    here.mkdir(parents=True)
    (here / "config.json").write_text("{}")
    run = tmp_path / "runs" / "20250101-000000-abcd"
    (run / "logs").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"load_from": str(here)}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = find_models(tmp_path / "runs", tmp_path / "here")
    assert [(candidate.path, candidate.origin) for candidate in found] == [
        (here, "trained by the run 20250101-000000-abcd"),
        (snapshot, "org/name in the Hub cache"),
    ]


def test_paths_are_completed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chats.jsonl").touch()
    (tmp_path / "data" / "with space").touch()
    assert complete(f"{tmp_path}/da", is_list=False) == f"{tmp_path}/data/"
    assert complete(f"{tmp_path}/data/ch", is_list=False) == f"{tmp_path}/data/chats.jsonl"
    assert complete(f"x.jsonl {tmp_path}/data/ch", is_list=True) == f"x.jsonl {tmp_path}/data/chats.jsonl"
    assert complete(f"{tmp_path}/data/with", is_list=True) is None  # quotes would stand before it
    assert complete(f"{tmp_path}/nothing", is_list=False) is None and complete("", is_list=False) is None

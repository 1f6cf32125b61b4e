"""The option declarations: defaults, rules, files, flags."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from xtuner.errors import UsageError
from xtuner.v1.config import DatasetConfig, FSDPConfig, LoraConfig, TrainerConfig
from xtuner.v1.config.files import resolve_config
from xtuner.v1.config.flags import flag_names, flags_of, given_options, shorthand_names, with_flags

PUBLIC_FLAGS = [
    "--load-from",
    "--model-cfg",
    "--tokenizer-path",
    "--chat-template",
    "--dataset",
    "--datasets",
    "--dataset-format",
    "--mask-policy",
    "--max-length",
    "--overlong",
    "--packing",
    "--pack-max-length",
    "--cache-dir",
    "--num-data-workers",
    "--total-step",
    "--epoch-num",
    "--global-batch-size",
    "--seed",
    "--optimizer",
    "--lr",
    "--lr-min",
    "--scheduler-type",
    "--warmup-ratio",
    "--weight-decay",
    "--adam-beta1",
    "--adam-beta2",
    "--muon-momentum",
    "--loss-chunk-size",
    "--z-loss",
    "--max-grad-norm",
    "--on-nonfinite",
    "--max-nonfinite-skips",
    "--attention",
    "--sp-size",
    "--tp-size",
    "--fsdp-config.cpu-offload",
    "--fsdp-config.compute-dtype",
    "--fsdp-config.hsdp-sharding-size",
    "--fsdp-config.reshard-after-forward",
    "--fsdp-config.prefetch",
    "--fsdp-config.recompute-ratio",
    "--fsdp-config.torch-compile",
    "--lora.rank",
    "--lora.alpha",
    "--lora.dropout",
    "--lora.target-modules",
    "--lora.merge",
    "--eval-dataset",
    "--eval-interval",
    "--eval-max-packs",
    "--early-stopping-patience",
    "--early-stopping-min-delta",
    "--eval-generations",
    "--eval-generation-tokens",
    "--work-dir",
    "--checkpoint-interval",
    "--checkpoint-maxkeep",
    "--save-first-step",
    "--async-checkpoint",
    "--resume",
    "--allow-data-change",
    "--hang-timeout",
    "--hf-interval",
    "--hf-max-keep",
    "--report-to",
]


def test_public_flags_are_these_and_no_others() -> None:
    assert flag_names() == PUBLIC_FLAGS and shorthand_names() == ["--auto-resume"]


def test_defaults_are_those_of_the_design() -> None:
    config = TrainerConfig()
    assert (config.lr, config.lr_min, config.scheduler_type, config.warmup_ratio) == (6e-5, 1e-6, "cosine", 0.03)
    assert (config.max_length, config.pack_max_length, config.seed) == (4096, 4096, 42)
    assert (config.adam_beta1, config.adam_beta2, config.weight_decay, config.max_grad_norm) == (0.9, 0.95, 0.01, 1.0)


def test_every_option_has_help_and_a_group() -> None:
    for name, field in TrainerConfig.model_fields.items():
        if name not in ("fsdp_config", "lora"):
            assert field.description and field.json_schema_extra["group"], name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "d"}, "no model"),
        ({"load_from": "m"}, "no data"),
        ({"load_from": "m", "model_cfg": "c", "dataset": "d"}, "both"),
        ({"model_cfg": "c", "dataset": "d"}, "--tokenizer-path"),
        ({"load_from": "m", "dataset": "d", "total_step": 5, "epoch_num": 1}, "both"),
        ({"load_from": "m", "dataset": "d", "lr": 1e-6, "lr_min": 1e-5}, "above"),
        ({"model_cfg": "c", "tokenizer_path": "t", "dataset": "d", "lora": {"rank": 8}}, "--lora.rank and --model-cfg"),
        ({"load_from": "m", "dataset": "d", "eval_interval": 5}, "--eval-interval 5 is given without --eval-dataset"),
        ({"load_from": "m", "dataset": "d", "early_stopping_patience": 2}, "--early-stopping-patience 2"),
        ({"load_from": "m", "dataset": "d", "early_stopping_min_delta": 0.1}, "--early-stopping-min-delta 0.1"),
    ],
)
def test_contradictions_are_usage_errors(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        TrainerConfig(**options).check()
    assert caught.value.hint


def test_world_size_must_divide_the_global_batch() -> None:
    TrainerConfig(global_batch_size=6).check_world_size(3)
    with pytest.raises(UsageError, match="6 is not a multiple of the 4 ranks") as caught:
        TrainerConfig(global_batch_size=6).check_world_size(4)
    assert "--global-batch-size 8" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "lr: 1e-4\nfsdp-config:\n  cpu-offload: true\n"),
        ("c.toml", "lr = 1e-4\n[fsdp_config]\ncpu_offload = true\n"),
        ("c.json", '{"lr": 1e-4, "fsdp_config": {"cpu_offload": true}}'),
        (
            "c.py",
            "from xtuner.v1.train import TrainerConfig, FSDPConfig\n"
            "trainer = TrainerConfig(lr=1e-4, fsdp_config=FSDPConfig(cpu_offload=True))\n",
        ),
    ],
)
def test_flag_wins_over_file_wins_over_default(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    config = resolve_config({"seed": 7, "fsdp_config": {"compute_dtype": "bfloat16"}}, file)
    assert config.lr == 1e-4 and config.seed == 7 and config.lr_min == 1e-6
    assert config.fsdp_config == FSDPConfig(cpu_offload=True, compute_dtype="bfloat16")
    assert resolve_config({"lr": 2e-4}, file).lr == 2e-4


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("learning_rate: 1\n", "unknown option learning_rate", ""),
        ("fsdp_config: {cpu_ofload: true}\n", "fsdp_config.cpu_ofload", "cpu_offload"),
        ("warmup_ration: 0.1\n", "warmup_ration", "warmup_ratio"),
        ("lr: -1\n", "--lr: input should be greater than 0", "--lr"),
        ("lr: .nan\n", "--lr: input should be a finite number", "--lr"),
        ("- 1\n", "holds a list", ""),
        ("a: [\n", "cannot be read", ""),
        ("datasets: [{path: a.jsonl, ratoi: 2}]\n", "datasets.0.ratoi", "ratio"),
        ("datasets: [{path: a.jsonl, ratio: 0}]\n", "--datasets.0.ratio: input should be greater than 0", ""),
        ("datasets: [{ratio: 1}]\n", "--datasets.0.path: field required", ""),
        ("packing: bfd\n", "--packing", ""),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        resolve_config({}, file)
    assert message in caught.value.message and hint in caught.value.hint


def test_flags_give_back_the_config() -> None:
    config = TrainerConfig(
        load_from=Path("-odd name/模型"),
        dataset=(Path("a b'c.jsonl"), Path("*.jsonl")),
        datasets=(DatasetConfig(path=Path("数据 $x.jsonl"), ratio=0.1 + 0.2, format="alpaca"),),
        overlong="split",
        total_step=3,
        lr=0.1 + 0.2,
        lr_min=0.0,
        fsdp_config=FSDPConfig(cpu_offload=True),
        lora=LoraConfig(rank=4, target_modules="q_proj, v_proj", merge=False),
        eval_dataset=(Path("e 1.jsonl"), Path("e2.jsonl")),
        report_to=("wandb", "tensorboard"),
    )
    program = (
        "import typer\nfrom xtuner.v1.config.flags import with_flags\n"
        "app = typer.Typer(add_completion=False)\n"
        "@app.command()\n@with_flags\ndef main(config):\n    print(config.model_dump_json())\napp()\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, *flags_of(config)], capture_output=True, text=True, check=True
    ).stdout
    assert TrainerConfig.model_validate(json.loads(printed)) == config


def _parsed(*arguments: object) -> TrainerConfig:
    """What a command line with training flags gets."""
    caught: list[TrainerConfig] = []
    app = typer.Typer(add_completion=False)
    app.command()(with_flags(caught.append))
    app(map(str, arguments), standalone_mode=False)
    return caught[0]


def test_auto_resume_is_a_word_for_resume_auto(tmp_path: Path) -> None:
    yes, no, none = tmp_path / "yes.yaml", tmp_path / "no.yaml", tmp_path / "none.yaml"
    yes.write_text("auto-resume: true\n")
    no.write_text("auto_resume: false\nresume: some/run\n")
    none.write_text("resume: none\n")
    assert _parsed().resume == "none" and _parsed("--auto-resume").resume == "auto"
    assert _parsed("--auto-resume", "--resume", "auto") == _parsed("--config", yes) == TrainerConfig(resume="auto")
    assert _parsed("--config", no).resume == "some/run"
    # The command line wins over the file, whichever of the two has the shorthand.
    assert _parsed("--config", none, "--auto-resume").resume == "auto"
    assert _parsed("--config", yes, "--resume", "none").resume == "none"
    assert flags_of(_parsed("--auto-resume")) == ["--resume=auto"]
    assert given_options({"auto_resume": True, "resume": None, "dataset": []}) == ["resume"]


def test_auto_resume_beside_another_value_is_refused(tmp_path: Path) -> None:
    for value in ("none", "some/run"):
        with pytest.raises(UsageError, match=f"--auto-resume and --resume {value} are both given") as caught:
            _parsed("--resume", value, "--auto-resume")
        assert "--resume auto" in caught.value.hint
    file = tmp_path / "c.yaml"
    file.write_text("auto_resume: always\n")
    with pytest.raises(UsageError, match="--auto-resume is 'always'"):
        resolve_config({}, file)


@pytest.mark.parametrize(
    ("text", "seconds"), [("off", None), ("'off'", None), ("90s", 90), ("10min", 600), ("2h", 7200)]
)
def test_the_hang_timeout_is_a_time_or_off(tmp_path: Path, text: str, seconds: float | None) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"hang_timeout: {text}\n")
    assert resolve_config({}, file).hang_timeout_s == seconds and TrainerConfig().hang_timeout_s == 600


@pytest.mark.parametrize("text", ["0", "10", "on", "''", "0min"])
def test_another_hang_timeout_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"hang_timeout: {text}\n")
    with pytest.raises(UsageError, match="--hang-timeout"):
        resolve_config({}, file)


def test_data_comes_from_flags_and_files_together(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("datasets:\n- path: ~/b.jsonl\n  ratio: 0.5\n- {path: c.json, format: sharegpt}\n")
    specs = resolve_config({"dataset": ["a.jsonl"], "dataset_format": "text"}, file).data_specs
    assert [(spec.path, spec.ratio, spec.format) for spec in specs] == [
        ("a.jsonl", 1.0, "text"),
        (str(Path.home() / "b.jsonl"), 0.5, "auto"),
        ("c.json", 1.0, "sharegpt"),
    ]
    assert TrainerConfig(dataset="one.jsonl").dataset == (Path("one.jsonl"),)


def test_an_unknown_users_home_is_a_name_like_any_other() -> None:
    assert TrainerConfig(dataset=("~nobody-here/a.jsonl",)).dataset == (Path("~nobody-here/a.jsonl"),)
    assert TrainerConfig(load_from="~/model").load_from == Path.home() / "model"

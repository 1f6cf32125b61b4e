"""Which files are fetched, and why the others are not."""

import pytest

from xtuner.errors import ModelError, UsageError
from xtuner.hub.download_plan import DownloadPlan, RemoteFile, Selection, check_selection, is_index_needed

QWEN = [
    ".gitattributes",
    "LICENSE",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
]


def _files(*paths):
    return [RemoteFile(path, 10, "0" * 40, "0" * 64 if path.endswith(".safetensors") else None) for path in paths]


def _split(paths, indexed=None, **options):
    wanted, left = Selection(**options).split(_files(*paths), indexed)
    return [file.path for file in wanted], {item.file.path: item.reason for item in left}


def test_what_training_needs():
    wanted, left = _split(QWEN)
    assert wanted == sorted(set(QWEN) - {".gitattributes", "README.md"})
    assert left == dict.fromkeys([".gitattributes", "README.md"], "training does not need it")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pytorch_model.bin", "pickle"),
        ("consolidated.00.pth", "pickle"),
        ("modeling_custom.py", "code, which is never run"),
        ("model-Q4.GGUF", "GGUF cannot be trained"),
        ("tf_model.h5", "another framework"),
        ("onnx/model.json", "in a folder"),
        ("original/params.json", "in a folder"),
        ("figure.png", "does not need it"),
        (".cache/huggingface/download/config.json.metadata", "not written to disk"),
        ("a\x1b[2Jb.json", "not written to disk"),
        ("x" * 201 + ".json", "not written to disk"),
        ("\ud800.json", "not written to disk"),
    ],
)
def test_left_out(path, reason):
    wanted, left = _split([*QWEN, path])
    assert path not in wanted and reason in left[path]


@pytest.mark.parametrize(
    "path",
    [
        "tokenizer.model",
        "tekken.json",
        "spiece.model",
        "qwen.tiktoken",
        "sentencepiece.bpe.model",
        "vocab.txt",
        "additional_chat_templates/tool_use.jinja",
        "licence.md",
        "模型.json",
    ],
)
def test_tokenizers_templates_and_licences_come_along(path):
    assert path in _split([*QWEN, path])[0]


def test_weights_in_a_second_form_are_left_out_by_the_index():
    paths = [*QWEN, "consolidated.safetensors", "model.fp16.safetensors", "mtp.safetensors"]
    assert is_index_needed(_files(*paths), Selection()) and not is_index_needed(_files(*QWEN), Selection())
    indexed = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "mtp.safetensors"}
    wanted, left = _split(paths, indexed)
    assert "mtp.safetensors" in wanted
    assert left["consolidated.safetensors"] == "model.safetensors.index.json does not name it"
    assert left["model.fp16.safetensors"] == "model.safetensors.index.json does not name it"


def test_weights_in_a_second_form_are_left_out_beside_a_single_file():
    wanted, left = _split(["config.json", "model.safetensors", "consolidated.safetensors"])
    assert wanted == ["config.json", "model.safetensors"]
    assert left == {"consolidated.safetensors": "the weights are in model.safetensors"}


def test_odd_names_of_weights_are_kept_where_nothing_else_is_known():
    assert _split(["config.json", "weights.safetensors"])[0] == ["config.json", "weights.safetensors"]


def test_include_replaces_the_choice_and_exclude_narrows_it():
    paths = [*QWEN, "original/params.json", "modeling.py"]
    assert _split(paths, include=["*.py", "original/"])[0] == ["modeling.py", "original/params.json"]
    wanted, left = _split(paths, exclude=["model-*", "vocab.json"])
    assert "vocab.json" not in wanted and not any(path.startswith("model-") for path in wanted)
    assert left["vocab.json"] == "--exclude vocab.json" and left["modeling.py"] == "code, which is never run"
    assert _split(paths, include=["*.json"], exclude=["vocab*"])[1]["vocab.json"] == "--exclude vocab*"


@pytest.mark.parametrize(
    ("paths", "hint"),
    [
        (["config.json", "pytorch_model.bin"], "refs/pr/1"),
        (["config.json", "model.gguf"], "original model"),
        (["config.json", "bf16/model.safetensors"], "--include bf16/"),
        (["README.md"], "repository of a model"),
    ],
)
def test_a_repository_without_safetensors_is_refused_before_the_download(paths, hint):
    wanted, left = Selection().split(_files(*paths))
    with pytest.raises(ModelError, match="no safetensors weights") as error:
        check_selection(DownloadPlan("org/m", "main", "0" * 40, wanted, left), Selection())
    assert hint in error.value.hint


def test_patterns_that_leave_nothing():
    selection = Selection(include=["nothing*"])
    wanted, left = selection.split(_files(*QWEN))
    with pytest.raises(UsageError, match="none of the 13 files"):
        check_selection(DownloadPlan("org/m", "main", "0" * 40, wanted, left), selection)

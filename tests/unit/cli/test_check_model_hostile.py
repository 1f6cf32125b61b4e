"""Strings that strangers choose, in every place of a model directory that has one, through the real command."""

import json
import os
import subprocess

import pytest
from hub_dirs import TEMPLATE, edit_json, header_bytes, make_model

# A window title, cleared screen, C1 control, markup, a line of our own words, and text that reads backwards.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m[bold]OK\nOK: this model can be trained\r\u202egnp\u2066\u2028"
CONTROLS = set("\x1b\x07\x9b\r\u202e\u2066\u2028")


def _path(model, text):
    return model.parent / text


def _directory_name(model, text):
    (model / "tokenizer.json").unlink()
    return model.rename(model.with_name(text))


def _file_name(model, text):
    (model / f"{text}.incomplete").touch()


def _weights_name(model, text):
    path = (model / "model.safetensors").rename(model / f"{text}.safetensors")
    os.truncate(path, 100)


def _link_target(model, text):
    (model / "chat_template.jinja").symlink_to(text)


def _cache(model, text):
    repo = model.parent / f"models--org--{text}"
    for name in ("blobs", f"snapshots/{text}", f"snapshots/{text}2"):
        (repo / name).mkdir(parents=True)
    return repo


def _architecture(model, text):
    edit_json(model / "config.json", architectures=[text])


def _model_type(model, text):
    edit_json(model / "config.json", model_type=text)


def _quantisation(model, text):
    edit_json(model / "config.json", quantization_config={"quant_method": text})


def _kernel(model, text):
    edit_json(model / "config.json", _attn_implementation=f"a/{text}")


def _key(model, text):
    (model / "config.json").write_text(f"{{{json.dumps(text)}: 1, {json.dumps(text)}: 1}}")


def _tensor_name(model, text):
    header = {text: {"dtype": "U8", "shape": [1], "data_offsets": [0, 0]}}
    (model / "model.safetensors").write_bytes(header_bytes(header))


def _dtype(model, text):
    header = {"a": {"dtype": text, "shape": [], "data_offsets": [0, 0]}}
    (model / "model.safetensors").write_bytes(header_bytes(header))


def _index(model, text):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": f"../{text}"}}))


def _tokenizer_type(model, text):
    edit_json(model / "tokenizer.json", model={"type": text, "vocab": {"a": 0}})


def _token(model, text):
    edit_json(model / "tokenizer.json", added_tokens=[{"id": 9, "content": text, "special": True}])


def _template(model, text):
    (model / "chat_template.jinja").write_text(TEMPLATE + text)


def _template_name(model, text):
    edit_json(model / "tokenizer_config.json", chat_template=[{"name": text, "template": text}])


def _licence(model, text):
    (model / f"LICENSE{text}").touch()


def _code(model, text):
    edit_json(model / "config.json", auto_map={"AutoModel": text})
    (model / f"{text}.py").touch()


def _adapter(model, text):
    for path in list(model.iterdir()):
        path.unlink()
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": text}))


def _page(model, text):
    (model / "model.safetensors").write_text(f"<html>{text}")


def _no_json(model, text):
    (model / "config.json").write_text(text)


FILE_NAMES = [_directory_name, _file_name, _weights_name, _cache, _licence, _code]
VALUES = [
    *(_path, _architecture, _model_type, _quantisation, _kernel, _key, _tensor_name, _dtype, _index),
    *(_tokenizer_type, _token, _template_name, _adapter, _link_target),
]
# Looked through, and not shown: a template's text, and files that are not even text.
UNSEEN = [_template, _page, _no_json]


@pytest.mark.parametrize("place", FILE_NAMES + VALUES + UNSEEN, ids=lambda place: place.__name__)
def test_hostile_strings_come_out_as_visible_escapes(xtuner, tmp_path, place):
    model = make_model(tmp_path / "model")
    path = place(model, HOSTILE) or model
    for flags in ([], ["--deep"], ["--json"]):
        _, out, err = xtuner("check-model", path, *flags)
        assert not (set(out) | set(err)) & CONTROLS
        lines = out.splitlines()
        assert not any(line.startswith("OK") for line in lines[:-1])
        assert lines[-1] == "OK: this model can be trained" or not lines[-1].startswith("OK")
        shown = out if "--json" not in flags else "".join(map(repr, _texts(json.loads(out))))
        assert ("x1b]0;title" in shown) == (place not in UNSEEN), out


@pytest.mark.parametrize("place", VALUES + UNSEEN, ids=lambda place: place.__name__)
def test_strings_of_10_kilobytes_are_cut(xtuner, tmp_path, place):
    model = make_model(tmp_path / "model")
    length = 4000 if place is _link_target else 10_000  # PATH_MAX
    path = place(model, "n" * length) or model
    out = xtuner("check-model", path).stdout
    assert out and len(out) < (15_000 if place is _path else 3_000)  # a path may be as long as a path may be


def test_the_command_to_paste_stays_on_its_line_and_works(xtuner, tmp_path):
    name = HOSTILE.replace("\n", "\n'\\é ")
    make_model(tmp_path / name / "inner")
    last = xtuner("check-model", tmp_path / name).stdout.splitlines()[-1]
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {last}"], capture_output=True, check=True).stdout
    assert words.decode().split("\0")[:-1] == ["xtuner", "check-model", str(tmp_path / name / "inner")]


@pytest.mark.parametrize("place", [_path, _directory_name, _cache], ids=lambda place: place.__name__)
def test_training_shows_them_so_too(xtuner, tmp_path, place):
    path = place(make_model(tmp_path / "model"), HOSTILE)
    (tmp_path / "d.jsonl").write_text('{"text": "x"}\n')
    code, out, err = xtuner("sft", "--load-from", path, "--dataset", tmp_path / "d.jsonl", "--work-dir", tmp_path / "w")
    assert code == 3 and not (set(out) | set(err)) & CONTROLS
    assert "x1b]0;title" in err and not any(line.startswith("OK") for line in err.splitlines())


def _texts(value):
    if isinstance(value, str):
        return [value]
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in _texts(part)]

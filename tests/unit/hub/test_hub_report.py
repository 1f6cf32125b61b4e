"""The report as a whole: hostile names, speed at scale, and the page that lists the reason codes."""

import json
import re
from pathlib import Path

from hub_dirs import CONFIG, edit_json, header_bytes, make_model

from xtuner.hub.findings import REASON_CODES, shown
from xtuner.hub.model_dir import inspect_model
from xtuner.hub.weights import INDEX

HOSTILE = "\x1b]0;title\x07\nOK: this model can be trained\u202e"
PAGE = Path(__file__).parents[3] / "docs" / "check-model.md"


def test_page_lists_every_reason_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == REASON_CODES


def test_shown_is_one_short_line():
    assert shown("a\nb\r\x0b\x85\u2028c\td") == "a\\nb\\r\\x0b\\x85\\u2028c\\td"
    assert len(shown("x" * 10_000)) == 80
    assert shown("\udcff") == "\\udcff"


def test_hostile_names_and_values_stay_on_their_lines(tmp_path):
    long = "n" * 10_000 + HOSTILE
    directory = make_model(tmp_path / f"m{HOSTILE}", architectures=[long], auto_map={"x": long})
    edit_json(
        directory / "config.json", quantization_config={"quant_method": HOSTILE}, _attn_implementation=f"a/{long}"
    )
    (directory / f"{HOSTILE}.incomplete").write_bytes(b"")
    (directory / f"{HOSTILE}.py").write_bytes(b"")
    entry = {"dtype": HOSTILE, "shape": [], "data_offsets": [0, 0]}
    (directory / "model.safetensors").write_bytes(header_bytes({long: entry}))
    report = inspect_model(directory)
    assert len(report.findings) >= 5
    for finding in report.findings:
        assert "\n" not in finding.message and len(finding.message) < 1000
        assert not any(line.startswith("OK") for line in finding.hint.split("\n"))
    json.dumps(report.to_json(), ensure_ascii=False).encode()


def test_undecodable_names_can_be_encoded(tmp_path):
    directory = make_model(tmp_path / "m\udcff")
    (directory / "model.safetensors").rename(directory / "w\udcfe.safetensors")
    report = inspect_model(directory)
    assert report.ok
    json.dumps(report.to_json(), ensure_ascii=False).encode()


JSON_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX]
VALUES = [None, True, -1, 2**70, 1e400, "", "x", "a/b", [], {}, [None], [[]], [{}], {"": None}, [1, "x"], {"name": []}]


def _places(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*place, key))


def test_values_of_any_type_are_judged_not_raised(tmp_path):
    make_model(tmp_path, shards=2, text_config={**CONFIG, "auto_map": {}}, quantization_config={})
    edit_json(tmp_path / "tokenizer_config.json", chat_template=[{"name": "default", "template": "x"}])
    for name in JSON_FILES:
        original = (tmp_path / name).read_text()
        for place in list(_places(json.loads(original)))[1:]:
            for value in VALUES:
                changed = json.loads(original)
                inner = changed
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = value
                (tmp_path / name).unlink()
                (tmp_path / name).write_text(json.dumps(changed))
                json.dumps(inspect_model(tmp_path).to_json())
        (tmp_path / name).write_text(original)


def test_deep_configs_are_judged(tmp_path):
    path = make_model(tmp_path) / "config.json"
    for depth in (10, 100, 500, 900, 990, 2000):
        nested = '{"a":' * depth + '{"auto_map": {"x": 1}}' + "}" * depth
        path.write_text(json.dumps(CONFIG).replace("{", '{"nested": ' + nested + ", ", 1))
        assert inspect_model(tmp_path).findings[0].code in ("REMOTE_CODE", "NOT_JSON")


def test_size_of_the_largest_models(tmp_path):
    """160 shards of 600 tensors, as DeepSeek-V3 has them; the time belongs into a benchmark."""
    tensors = {f"model.layers.{n // 600}.mlp.experts.{n % 600}.weight": ("BF16", [1]) for n in range(160 * 600)}
    make_model(tmp_path, shards=160, tensors=tensors, model_type="deepseek_v3", num_hidden_layers=160)
    report = inspect_model(tmp_path)
    assert report.ok and report.summary.num_parameters == 160 * 600

"""The sandbox that templates run in: transformers' own, without its package, and no way out through faster reading."""

import subprocess
import sys
from typing import Any

import pytest
from chat_templates import SHAPES
from test_tokenizers import write_directory

from xtuner.data import template
from xtuner.data.problems import RowError
from xtuner.data.template import ChatTemplate, compiled

_IN_A_WORKER = """
import sys
from pathlib import Path
from xtuner.data import worker
from xtuner.data.rows import PipelineSpec, RowPipeline
if sys.argv[2] == "elsewhere":
    worker.PathFinder = type("Finder", (), {"find_spec": lambda *_: None})
pipeline = RowPipeline(PipelineSpec(Path(sys.argv[1])))
worker._import_renderer(pipeline)
print(pipeline.template.render([{"role": "user", "content": "Hi"}]).text)
print("transformers.utils.hub" in sys.modules)
"""


@pytest.mark.parametrize(("place", "has_package"), [("here", "False"), ("elsewhere", "True")])
def test_a_worker_renders_without_the_rest_of_transformers_if_it_can(tmp_path, place, has_package):
    directory = write_directory(tmp_path, SHAPES["chatml"])
    run = [sys.executable, "-c", _IN_A_WORKER, str(directory), place]
    said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == ["<|im_start|>user", "Hi<|im_end|>", "", has_package]


_MESSAGE = {"role": "user", "content": "Hi", "keys": "k", "call": {"name": "f", "arguments": {"x": [1, 2]}}, "n": None}


def _read(expression: str) -> str:
    source = "{% set ns = namespace(seen=1) %}{% for m in messages %}{{ " + expression + " }}{% endfor %}"
    try:
        return ChatTemplate(source, {}).render([_MESSAGE]).text
    except RowError as error:
        return error.message


@pytest.mark.parametrize(
    "expression",
    [
        *("m.role", "m.keys", "m.keys()", "m.items() | list", "m.get('role')", "m['content']", "m.n", "m.n is none"),
        *("m.missing", "m.missing is defined", "m.missing.deeper", "m.call.name", "m.call.arguments.x[1]"),
        *("m.content.upper()", "m.content.format()", "ns.seen", "loop.first", "loop.index0", "messages.role"),
        *("m.__class__", "m.__class__.__mro__", "m.pop('role')", "m.update({'role': 'x'})", "m._private", "m.clear"),
    ],
)
def test_a_message_is_read_as_the_sandbox_itself_reads_it(monkeypatch, expression):
    compiled.cache_clear()
    ours = _read(expression)
    compiled.cache_clear()
    monkeypatch.setattr(template, "_dict_reader", _of_the_sandbox)
    assert ours == _read(expression)
    compiled.cache_clear()


def _of_the_sandbox(environment: Any) -> Any:
    return type(environment).getattr.__get__(environment)

"""Files of rows, and a pool with the demo's model."""

import json

import pytest

from xtuner.data.options import RowOptions
from xtuner.data.pool import WorkerPool
from xtuner.data.rows import PipelineSpec
from xtuner.demo.build import build_demo


@pytest.fixture
def write(tmp_path):
    """`write(rows)` is a file with them; a string is a line as it stands."""

    def call(rows, name="chats.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return call


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    build_demo(folder)
    with WorkerPool(PipelineSpec(folder / "model", options=RowOptions(max_tokens=200)), 1) as pool:
        yield pool

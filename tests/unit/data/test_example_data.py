"""The data in `examples/` are good to the last row."""

from pathlib import Path

import pytest
import tiny_models
from chat_templates import QWEN3
from commands import run


@pytest.mark.parametrize("name", ["chats", "instructions", "tools"])
def test_the_preview_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    tiny_models.write_tokenizer(tmp_path)
    (tmp_path / "template.jinja").write_text(QWEN3)  # it knows reasoning and tools
    data = f"examples/{name}.jsonl"
    done = run(
        "xtuner", "preview", data, "--model", tmp_path, "--chat-template", tmp_path / "template.jinja", "--strict"
    )
    assert done.returncode == 0, done.stdout + done.stderr

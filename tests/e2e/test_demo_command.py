"""`xtuner demo`, as a newcomer runs it."""

import re

from commands import run


def test_demo_trains_and_says_where_the_model_is(tmp_path):
    done = run("xtuner", "demo", "--keep", tmp_path / "play", "--steps", 60)
    assert done.returncode == 0, done.stderr
    first, last = map(float, re.search(r"fell from ([\d.]+) to ([\d.]+)", done.stderr).groups())
    assert 7 < first < 8.3 and last < first - 1.5
    assert "xtuner sft --load-from" in done.stderr and (tmp_path / "play" / "chats.jsonl").exists()
    assert run("xtuner", "check-model", done.stdout.strip()).returncode == 0

"""`xtuner runs`."""

import json
from dataclasses import replace
from functools import partial

import pytest

from xtuner.run.atomic import write_json
from xtuner.run.checkpoints import commit, temporary_directory
from xtuner.run.exports import mark_verified
from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status


@pytest.fixture
def runs(xtuner):
    return partial(xtuner, "runs")


def make_run(work_dir, **changes):
    run = RunDir.create(work_dir)
    write_json(run.run_json, {"model": "Qwen/模型"})
    write_status(run, replace(start_status(100), **changes))
    return run


def test_a_table_of_the_runs(runs, tmp_path):
    run = make_run(tmp_path, state="finished", step=100)
    for step in (20, 100):
        run.export(step).mkdir()
        (run.export(step) / "model.safetensors").touch()
    assert "hf-100 (not verified)" in runs(tmp_path)[1]
    mark_verified(run, run.export(100))
    lost = make_run(tmp_path, state="running", step=7, heartbeat_at=0.0)
    code, out, err = runs(tmp_path)
    header, *rows = out.splitlines()
    assert code == 0 and err == "" and header.split() == ["run", "state", "step", "export", "checkpoint", "model"]
    assert sorted(map(str.split, rows)) == sorted(
        [
            [run.name, "finished", "100/100", "hf-100", "-", "Qwen/模型"],
            [lost.name, "lost", "7/100", "-", "-", "Qwen/模型"],
        ]
    )
    assert not (tmp_path / ".xtuner").exists(), "a reader writes nothing"


def test_checkpoints_are_listed_and_broken_ones_counted(runs, tmp_path):
    run = make_run(tmp_path, state="failed", step=30)
    for step in (10, 20):
        directory = temporary_directory(run, step, "0")
        directory.mkdir(parents=True)
        commit(run, directory, step, [], {})
    (run.checkpoints / "step-00000030").mkdir()
    assert "step-00000020 (1 broken)" in runs(tmp_path)[1]
    [entry] = json.loads(runs(tmp_path, "--json")[1])["runs"]
    assert [(item["step"], item["fault"]) for item in entry["checkpoints"]] == [
        (10, None),
        (20, None),
        (30, "it has no MANIFEST.json"),
    ]


def test_json_is_the_index(runs, tmp_path):
    run = make_run(tmp_path, step=3)
    code, out, _ = runs(tmp_path, "--json")
    index = json.loads(out)
    assert code == 0 and index["schema"] == 1
    assert [(entry["name"], entry["state"], entry["step"]) for entry in index["runs"]] == [(run.name, "starting", 3)]


def test_an_empty_work_dir_is_no_error(runs, tmp_path):
    assert runs(tmp_path) == (0, "", f"{tmp_path} holds no runs\n")
    assert json.loads(runs(tmp_path, "--json")[1])["runs"] == []


def test_wrong_paths_say_what_to_pass(runs, tmp_path):
    code, out, err = runs(tmp_path / "none")
    assert code == 2 and out == "" and str(tmp_path / "none") in err and "hint:" in err
    run = make_run(tmp_path)
    code, out, err = runs(run.path)
    assert code == 2 and f"xtuner runs {tmp_path}" in err


def test_a_model_name_cannot_paint_or_break_rows(runs, tmp_path):
    run = make_run(tmp_path)
    write_json(run.run_json, {"model": "a\x1b[2J\nb\u202e"})
    _, out, _ = runs(tmp_path)
    assert len(out.splitlines()) == 2 and out.endswith("a\\x1b[2J\\nb\\u202e\n")


def test_help_has_an_example(runs):
    assert "Example:\n  xtuner runs work_dirs" in runs("--help")[1].replace("   ", " ")

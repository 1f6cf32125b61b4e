"""Each name is given after its file is durable, and before its directory is: in a save, an export and a record."""

import os
import shutil
from pathlib import Path

import engine_parts
import pytest
from write_order import watch_order

from xtuner.run.atomic import sync_directory, write_json
from xtuner.run.checkpoints import list_checkpoints, prune
from xtuner.run.exports import mark_verified
from xtuner.run.layout import RunDir, point_latest
from xtuner.v1.checkpoint.save import Snapshot, save_checkpoint
from xtuner.v1.model.export import export_model


def _write(path, *, syncs=True):
    with path.open("wb") as file:
        file.write(b"content")
        file.flush()
        if syncs:
            os.fsync(file.fileno())


def _rename(path, *, syncs=True):
    os.rename(path, path.with_name("final"))
    if syncs:
        sync_directory(path.parent)


def _in_order(path):
    _write(path)
    _rename(path)


def _without_fsync(path):
    _write(path, syncs=False)
    _rename(path)


def _written_after_fsync(path):
    _write(path)
    _write(path, syncs=False)
    _rename(path)


def _directory_forgotten(path):
    _write(path)
    _rename(path, syncs=False)


def _inside_forgotten(path):
    path.mkdir()
    _write(path / "inner", syncs=False)
    sync_directory(path)
    _rename(path)


def _old_removed_too_early(path):
    _write(path)
    _rename(path, syncs=False)
    shutil.rmtree(path.with_name("old"), ignore_errors=True)
    sync_directory(path.parent)


@pytest.mark.parametrize(
    ("program", "faults"),
    [
        (_in_order, []),
        (_without_fsync, [".t had no fsync when final gets its name"]),
        (_written_after_fsync, [".t was changed after its fsync when final gets its name"]),
        (_directory_forgotten, ["the directory of final had no fsync at the end"]),
        (_old_removed_too_early, ["the directory of final had no fsync when old goes"]),
        (_inside_forgotten, [".t/inner had no fsync when final gets its name"]),
    ],
)
def test_what_is_out_of_order_is_seen(tmp_path, program, faults):
    with watch_order(tmp_path) as order:
        program(tmp_path / ".t")
    assert order.faults == faults


def test_a_save_an_export_and_records_are_in_order(mesh, tiny_model, tmp_path):
    source = tiny_model("qwen3")
    engine = engine_parts.engine(mesh, source)
    run_dir = RunDir.create(tmp_path)
    given = []

    def done(what: str) -> None:
        given.append((what, order.num_renames - sum(number for _, number in given)))

    with watch_order(tmp_path) as order:
        for step in (1, 2):
            snapshot = Snapshot.take(engine.model, engine.torch_optimizers, engine.device)
            save_checkpoint(snapshot, run_dir, step, facts={"world_size": 1})
        done("checkpoint and latest, twice")
        prune(run_dir, 1)
        done("old checkpoint out of sight")
        for _ in range(2):  # the second time in the place of the first
            export_model(
                engine.model,
                run_dir.export(1),
                source=source,
                tokenizer_dir=source,
                is_writer=True,
                max_shard_bytes=100_000,
            )
        done("exports")
        point_latest(run_dir, 1)
        mark_verified(run_dir, run_dir.export(1))
        write_json(run_dir.status_json, {"state": "running"})
        write_json(Path(tmp_path / ".xtuner"), {"schema": 1})
        done("link and records")
    assert order.faults == []
    assert [number for _, number in given] == [4, 0, 2, 4], given
    assert [checkpoint.step for checkpoint in list_checkpoints(run_dir)] == [2]

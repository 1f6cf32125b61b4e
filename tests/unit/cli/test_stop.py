"""Which run `xtuner stop` and `xtuner attach` take, and what they say when there is none to take."""

import json

import pytest

from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status
from xtuner.run.supervision import supervise_here


@pytest.mark.parametrize("command", ["stop", "attach"])
def test_no_run_goes_on(xtuner, tmp_path, command):
    nothing = xtuner(command, tmp_path / "nowhere")
    assert nothing.exit_code == 2 and "does not exist" in nothing.stderr
    empty = xtuner(command, tmp_path)
    assert empty.exit_code == 2 and f"{tmp_path} holds no runs" in empty.stderr

    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True).update(exit_code=6, message="rank 1 failed \x1b[31m")
    ended = xtuner(command, tmp_path)
    assert ended.exit_code == 2
    assert f"no run in {tmp_path} goes on; the newest, {run_dir.name}, is" in ended.stderr
    assert "rank 1 failed \\x1b[31m" in ended.stderr and "hint: look at it with: xtuner monitor" in ended.stderr


@pytest.mark.parametrize("command", ["stop", "attach"])
def test_a_run_that_torchrun_was_started_for_by_hand(xtuner, tmp_path, command):
    run_dir = RunDir.create(tmp_path)
    write_status(run_dir, start_status(100))
    refused = xtuner(command, tmp_path)
    assert refused.exit_code == 2 and f"{run_dir.path} goes on, but was not launched by xtuner sft" in refused.stderr
    assert f"kill -TERM {start_status(1).pid} on {start_status(1).host}" in refused.stderr


def test_several_runs_are_named(xtuner, tmp_path):
    runs = [RunDir.create(tmp_path), RunDir.create(tmp_path)]
    for run_dir in runs:
        supervise_here(run_dir, is_detached=True)
    refused = xtuner("stop", tmp_path)
    assert refused.exit_code == 2 and f"2 runs go on in {tmp_path}" in refused.stderr
    assert all(run_dir.name in refused.stderr for run_dir in runs) and "hint: name the one" in refused.stderr


def test_a_run_on_another_host_is_not_signalled(xtuner, tmp_path):
    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True)
    values = json.loads(run_dir.supervisor_json.read_text())
    run_dir.supervisor_json.write_text(json.dumps({**values, "host": "node7"}))
    refused = xtuner("stop", tmp_path)
    assert (
        refused.exit_code == 5 and "runs on the host node7" in refused.stderr and "on node7: xtuner" in refused.stderr
    )

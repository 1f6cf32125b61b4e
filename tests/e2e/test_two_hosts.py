"""Two machines train together; one of them dies and comes back. A minute or two: `make faults` runs it."""

import os
import subprocess
import time

import pytest
from commands import BIN, ROOT
from processes import end_all, processes_of, wait_for, wait_for_step
from two_hosts import TwoHosts, why_not

from xtuner.run.atomic import read_json
from xtuner.run.checkpoints import list_checkpoints
from xtuner.run.layout import list_runs
from xtuner.run.status import read_status
from xtuner.run.summary import summarise


@pytest.fixture
def hosts(tmp_path):
    reason = why_not(tmp_path) if os.environ.get("XTUNER_TWO_HOSTS") else "takes long: XTUNER_TWO_HOSTS=1 runs it"
    if reason:
        pytest.skip(reason)
    with TwoHosts(tmp_path) as two:
        yield two


@pytest.fixture
def launch(hosts, tiny_model, chats, tmp_path):
    """`launch(host, ...)` starts `xtuner sft` on a host, with one rank; what it says is in `host0.log`, `host1.log`."""
    flags = ["sft", "--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w"]
    flags += ["--total-step", 100_000, "--checkpoint-interval", 2, "--nproc-per-node", 1, "--nnodes", 2]
    flags += ["--rdzv-endpoint", "xt-a:29600"]

    def start(host, *more, **environment):
        with (tmp_path / f"host{host}.log").open("ab") as output:
            return subprocess.Popen(
                hosts.on(host, BIN / "xtuner", *flags, "--node-rank", host, *more),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "NO_COLOR": "1", **environment},
            )

    yield start
    end_all(tmp_path / "w")


def test_a_rank_that_fails_on_another_machine_is_named_on_the_first(launch, tmp_path):
    first, second = launch(0), launch(1, XTUNER_FAULT="step:nth=3:eio")
    assert (first.wait(), second.wait()) == (6, 6)
    said = (tmp_path / "host0.log").read_text()
    errors = said[said.index("error:") :]
    assert " on xt-b failed in step 2: [Errno 5] Input/output error" in errors and "Connection closed" not in errors
    [run_dir] = list_runs(tmp_path / "w")
    assert "[Errno 5]" in read_status(run_dir).message or " on xt-b failed" in read_status(run_dir).message


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("step:nth=3:SIGKILL", "was ended by SIGKILL and left no message"),
        ("start:SIGKILL", "was ended by SIGKILL and left no message"),
        ("start:eio", "failed before its first step: [Errno 5] Input/output error"),
    ],
    ids=["killed", "killed-while-loading", "fails-while-loading"],
)
def test_a_rank_that_dies_on_one_machine_is_named_on_both(launch, tmp_path, fault, told):
    first, second = launch(0), launch(1, XTUNER_FAULT=fault)
    assert (first.wait(), second.wait()) == (6, 6)
    for host, who in enumerate((" on xt-b ", "rank ")):
        said = (tmp_path / f"host{host}.log").read_text()
        errors = said[said.index("error:") :]
        assert who in errors and told in errors and "Connection closed" not in errors, errors
    [run_dir] = list_runs(tmp_path / "w")
    alerts = summarise(run_dir, time.time()).alerts
    assert [told in alert.text for alert in alerts if alert.kind == "failed"] == [True], alerts


@pytest.mark.parametrize("dying", [0, 1])
def test_where_a_rank_dies_before_the_ranks_have_met_both_machines_end(launch, tmp_path, dying):
    """Without it those of the other machine would wait for half an hour."""
    (tmp_path / "site").mkdir()
    kill = "import os, signal\nif 'RANK' in os.environ:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(kill)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    started = [launch(host, **({"PYTHONPATH": path} if host == dying else {})) for host in (0, 1)]
    assert [process.wait() for process in started] == [6, 6]
    said = [(tmp_path / f"host{host}.log").read_text() for host in (0, 1)]
    name = ("xt-a", "xt-b")[dying]
    assert "was ended by SIGKILL and left no message" in said[dying]
    assert f"error: xtuner sft on {name} ended before the ranks had met: rank " in said[1 - dying], said


def test_a_machine_that_died_comes_back_and_the_run_goes_on(hosts, launch, tmp_path):
    work_dir, restarts = tmp_path / "w", ("--max-restarts", 3)
    first, second = launch(0, *restarts), launch(1, *restarts)
    run_dir = wait_for_step(work_dir, 4)
    second.kill()
    assert second.wait() != 0
    wait_for(lambda: not [it for it in processes_of(work_dir) if "--node-rank=1" in it.cmdline()])
    saved = list_checkpoints(run_dir)[-1].step

    back = launch(1, *restarts)
    wait_for(lambda: list_checkpoints(run_dir)[-1].step > saved + 2)
    stopped = subprocess.run(
        hosts.on(0, BIN / "xtuner", "stop", work_dir), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 0 and "the state is saved" in stopped.stderr, stopped.stderr
    assert first.wait() == 7 and back.wait() == 7
    said = (tmp_path / "host0.log").read_text()
    assert "restart 1 of 3, from the checkpoint of step" in said
    assert list_runs(work_dir) == [run_dir]
    assert [entry["after_step"] >= 2 for entry in read_json(run_dir.run_json)["resumed"]] == [True]

"""The points at which a test lets something go wrong."""

import errno
import os
import subprocess
import sys

import pytest

from xtuner.run import faults

_PROGRAM = """
from xtuner.run.faults import point
for _ in range(3):
    point("other")
    point("save")
    print("passed", flush=True)
"""


def _run(fault, rank="0"):
    environment = {**os.environ, "RANK": rank}
    environment.pop("XTUNER_FAULT", None)
    if fault:
        environment["XTUNER_FAULT"] = fault
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.count("passed"), done.returncode, done.stderr


@pytest.mark.parametrize(
    ("fault", "num_passed", "returncode"),
    [
        ("", 3, 0),
        ("save:SIGKILL", 0, -9),
        ("save:nth=3:SIGKILL", 2, -9),
        ("save:rank=1:SIGKILL", 3, 0),
        ("save:rank=0:nth=2:SIGTERM", 1, -15),
        ("elsewhere:SIGKILL", 3, 0),
        ("save:sleep=0", 3, 0),
        ("save:sleep=0;save:nth=2:SIGKILL", 1, -9),
    ],
)
def test_a_fault_comes_where_it_is_asked_for(fault, num_passed, returncode):
    assert _run(fault)[:2] == (num_passed, returncode)


@pytest.mark.parametrize("name", ["enospc", "eio"])
def test_errors_of_the_disk(name):
    num_passed, _, stderr = _run(f"save:nth=2:{name}")
    assert num_passed == 1
    assert os.strerror(getattr(errno, name.upper())) in stderr


def test_a_value_that_is_no_number_is_asked_for_by_whoever_computes_it():
    faults.arm("loss:nth=2:nan")
    try:
        assert [faults.is_poisoned("loss") for _ in range(3)] == [False, True, False]
    finally:
        faults.arm("")
    assert not faults.is_poisoned("loss")


def test_a_process_is_held_until_it_is_let_go(tmp_path):
    gate = tmp_path / "gate"
    environment = {**os.environ, "XTUNER_FAULT": f"save:nth=2:hold={gate}"}
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while not gate.exists():
            assert process.poll() is None
        assert process.stdout.readline() == "passed\n" and process.poll() is None
        gate.unlink()
        assert process.stdout.read() == "passed\npassed\n"


def test_a_process_that_was_forked_is_armed_by_a_call():
    program = _PROGRAM.replace("import point", "import arm, point") + "arm('save:SIGKILL'); arm(''); point('save')\n"
    program += "arm('save:nth=2:SIGKILL'); point('save'); print('passed', flush=True); point('save')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.count("passed"), done.returncode) == (4, -9)

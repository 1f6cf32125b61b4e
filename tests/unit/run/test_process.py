"""Whose process it is, and processes that do not outlive their parents."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from processes import wait_until_gone

from xtuner.run import orphan
from xtuner.run.process import parent_of, this_process


def test_the_parent_of_a_process(child):
    assert parent_of(child.pid) == os.getpid() and parent_of(os.getpid()) == os.getppid()
    child.kill()
    child.wait()
    assert parent_of(child.pid) is None


def test_this_process_is_alive_and_another_birth_is_another_process():
    ours = this_process()
    assert ours.pid == os.getpid() and ours.is_here and ours.is_alive and ours.born
    assert not replace(ours, born=f"{ours.born}0").is_alive
    elsewhere = replace(ours, host="another-host")
    assert not elsewhere.is_alive and not elsewhere.send(signal.SIGKILL)
    assert not replace(ours, pid=0).is_alive and not replace(ours, pid=-1).is_alive


@pytest.fixture
def child():
    program = "from xtuner.run.process import this_process as t; print(repr(t()), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_a_signal_reaches_that_process_and_no_other(child, monkeypatch, has_descriptors):
    from xtuner.run.process import ProcessIdentity

    if not has_descriptors:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    identity = eval(child.stdout.readline(), {"ProcessIdentity": ProcessIdentity})
    assert identity.is_alive
    assert not replace(identity, born="another").send(signal.SIGKILL)
    assert identity.is_alive and identity.send(signal.SIGTERM)
    while identity.is_alive:  # until it is a zombie: nobody has asked yet how it ended
        time.sleep(0.01)
    assert not identity.send(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    assert not identity.send(signal.SIGTERM)


CHILD = """
import sys, time
from xtuner.run import orphan
platform, parent_pid, late_s = sys.argv[1:]
time.sleep(float(late_s))
sys.platform = platform
orphan.end_with_parent(int(parent_pid))
print("bound", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child, platform, late_s = sys.argv[1:]
command = [sys.executable, "-c", child, platform, str(os.getpid()), late_s]
process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
print(process.pid, flush=True)
print(process.stdout.readline(), end="", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("platform", [sys.platform, "without prctl"])
@pytest.mark.parametrize("late_s", ["0", "1"], ids=["watched", "parent gone before"])
def test_a_process_ends_with_its_parent(platform, late_s):
    command = [sys.executable, "-c", PARENT, CHILD, platform, late_s]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        if late_s == "0":
            assert parent.stdout.readline() == "bound\n"
        parent.kill()
    wait_until_gone([child])


def test_a_rank_that_xtuner_did_not_launch_is_left_alone(monkeypatch):
    monkeypatch.delenv(orphan.AGENT_PID_VARIABLE, raising=False)
    monkeypatch.setattr(orphan, "end_with_parent", lambda pid: pytest.fail("bound"))
    orphan.end_with_agent()

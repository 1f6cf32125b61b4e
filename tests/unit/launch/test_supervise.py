"""The supervising process: what it hands on, whom it tells what. Shell commands stand where torchrun would."""

import os
import signal
import threading

import pytest

from xtuner.errors import EnvironmentFault, StoppedNotSaved, TrainingFailed
from xtuner.launch import stop_signals
from xtuner.launch.detach import start_detached
from xtuner.launch.job import Job
from xtuner.launch.supervise import run_to_end
from xtuner.run.layout import RunDir
from xtuner.run.supervision import read_supervision

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def launch(tmp_path):
    """`launch(script, ...)` runs a shell script as a job; its run directory is `launch.run_dir`."""

    def call(script, *, is_detached=False, on_line=None):
        job = Job(("/bin/sh", "-c", script), call.run_dir.logs / "torchrun", call.run_dir, 1, {"OUT": str(tmp_path)})
        run_to_end(job, is_detached=is_detached, say=print, on_line=on_line)

    call.run_dir = RunDir.create(tmp_path / "w")
    return call


def _send(numbers, when):
    """Send this process signals, one after the other without a pause, as soon as the file `when` is there."""

    def wait_and_send():
        while not when.exists():
            stop.wait(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)

    stop = threading.Event()
    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def test_lines_are_handed_on_and_an_end_is_noted(launch):
    log = launch.run_dir.rank_log(0)
    log.write_text("of the launch before\n")
    lines = []
    launch(f"echo one >> '{log}'; sleep 0.3; echo two >> '{log}'", on_line=lines.append)
    assert lines == ["one", "two"] and read_supervision(launch.run_dir).exit_code == 0
    with pytest.raises(TrainingFailed, match="last words"):
        launch("echo last words; exit 3")
    known = read_supervision(launch.run_dir)
    assert known.exit_code == 6 and "last words" in known.message and not known.is_detached


def test_a_reader_that_is_gone_does_not_end_the_run(launch, tmp_path):
    log, lines = launch.run_dir.rank_log(0), []

    def broken(line):
        lines.append(line)
        raise BrokenPipeError

    launch(f"echo one >> '{log}'; sleep 0.5; echo two >> '{log}'; sleep 0.5; touch $OUT/end", on_line=broken)
    assert lines == ["one"] and (tmp_path / "end").exists()


_NOTES_SIGNALS = """
trap 'echo TERM >> $OUT/got; n=$((n + 1)); if [ $n = 2 ]; then exit 1; fi' TERM
n=0; touch $OUT/ready
while :; do sleep 0.05; done
"""


def test_a_closed_terminal_stops_the_run_and_two_signals_at_once_stay_two(launch, tmp_path):
    before = [signal.getsignal(number) for number in _SIGNALS]
    thread = _send((signal.SIGHUP, signal.SIGTERM), tmp_path / "ready")
    with pytest.raises(StoppedNotSaved, match="stopped by SIGHUP"):
        launch(_NOTES_SIGNALS)
    thread.join()
    assert (tmp_path / "got").read_text() == "TERM\nTERM\n"
    assert read_supervision(launch.run_dir).num_stop_signals == 2
    assert [signal.getsignal(number) for number in _SIGNALS] == before


@pytest.mark.parametrize("is_detached", [True, False], ids=["detached", "nohup"])
def test_a_run_without_a_terminal_does_not_hear_one_close(launch, tmp_path, is_detached):
    before = signal.getsignal(signal.SIGHUP)
    if not is_detached:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        thread = _send((signal.SIGHUP,), tmp_path / "ready")
        launch("touch $OUT/ready; sleep 1", is_detached=is_detached)
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_supervision(launch.run_dir).exit_code == 0


def test_what_does_not_hear_the_second_signal_is_killed(launch, tmp_path, monkeypatch):
    monkeypatch.setattr(stop_signals, "_NOW_S", 0.5)
    thread = _send((signal.SIGINT, signal.SIGTERM), tmp_path / "ready")
    with pytest.raises(StoppedNotSaved, match="stopped by SIGINT"):
        launch("trap '' TERM INT; touch $OUT/ready; while :; do sleep 0.05; done")
    thread.join()


def test_a_run_directory_that_cannot_be_written_is_said(launch):
    launch.run_dir.supervisor_json.mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        launch("exit 0")
    job = Job(("/bin/true",), launch.run_dir.logs / "torchrun", launch.run_dir, 1)
    with pytest.raises(EnvironmentFault, match=f"exit code 5: {job.home.path} cannot be written") as caught:
        start_detached(job)
    assert str(job.supervisor_log) in caught.value.hint

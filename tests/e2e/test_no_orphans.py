"""Whatever is killed, nothing of the run is left.

`make faults` kills each kind twenty times, at any moment, and says how long the others took to go.
"""

import os
import random
import subprocess
import time

import psutil
import pytest
from commands import BIN, ROOT
from processes import end_all, processes_of, ranks_of, torchrun_of, wait_for, wait_until_gone

from xtuner.run.layout import list_runs
from xtuner.run.supervision import read_supervision

_NUM_KILLS = int(os.environ.get("XTUNER_NUM_KILLS", "0"))
_KINDS = ("cli", "supervisor", "torchrun", "rank")
# Killed in training are torchrun and a rank in test_failing_rank.py, and the command line in test_random_kills.py.
_CASES = [(kind, "starting") for kind in _KINDS]
_MANY = [(kind, f"at any time, {number}") for kind in _KINDS for number in range(1, _NUM_KILLS + 1)]
_ANY_TIME_S = 15.0  # from the first moment of a rank; on a busy machine they train after about ten


@pytest.mark.parametrize(("kind", "moment"), _MANY or _CASES)
def test_nothing_outlives_what_is_killed(tiny_model, chats, tmp_path, kind, moment):
    flags = ["sft", "--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path]
    flags += ["--nproc-per-node", 2, "--total-step", 100_000, *(["--detach"] if kind == "supervisor" else [])]
    with subprocess.Popen(
        [BIN / "xtuner", *map(str, flags)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as launcher:
        try:
            wait_for(lambda: len(ranks_of(tmp_path)) == 2)  # they import, meet, load
            if moment != "starting":
                time.sleep(random.uniform(0, _ANY_TIME_S))
            everything = processes_of(tmp_path)
            assert len(everything) >= 4
            _victim(kind, tmp_path, launcher.pid).kill()
            seconds = wait_until_gone(everything)
            assert not processes_of(tmp_path)  # nor what was started meanwhile
            print(f"{kind} killed {moment}: all gone after {seconds:.2f} s")
        finally:
            end_all(tmp_path)


def _victim(kind, work_dir, launcher_pid):
    if kind == "cli":
        return psutil.Process(launcher_pid)
    if kind == "supervisor":
        return psutil.Process(read_supervision(list_runs(work_dir)[-1]).pid)
    return torchrun_of(work_dir) if kind == "torchrun" else random.choice(ranks_of(work_dir))

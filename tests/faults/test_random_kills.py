"""SIGKILL at random times, to a whole run or to any process of it: it goes on, and ends with the very same weights.

Short in CI; `make faults` kills one run a hundred times. Most runs here are forked ranks, which start in a second; some
are whole trees of `xtuner sft`, torchrun and ranks.
"""

import os
import random
import signal
import subprocess
import time

import psutil
from commands import BIN, ROOT
from processes import end_all, kill, processes_of, ranks_of, torchrun_of, wait_for, wait_until_gone
from trained_runs import completed, steps_of, weights_of

from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.layout import list_runs
from xtuner.run.status import read_status
from xtuner.run.supervision import read_supervision

IS_LONG = "XTUNER_LONG_FAULTS" in os.environ  # `make faults`
NUM_KILLS, NUM_OF_TREES = (100, 25) if IS_LONG else (5, 1)
STEPS_A_KILL = 12 if IS_LONG else 4
TREE_VICTIMS = ("cli", "supervisor", "torchrun", "rank", "tree") if IS_LONG else ("cli",)
_READY_S = 15.0  # about how long a tree takes to train


def test_kills_at_random_times_lose_nothing(server, options, tmp_path):
    seed = int(os.environ.get("XTUNER_KILL_SEED") or random.randrange(2**32))
    print("seed", seed)
    dice = random.Random(seed)
    more = ("--total-step", STEPS_A_KILL * NUM_KILLS, "--scheduler-type", "constant", "--checkpoint-interval")
    completed(server, options(tmp_path / "whole", *more, 10**6))
    of_trees = set(dice.sample(range(NUM_KILLS), NUM_OF_TREES))
    num_kills = num_runs = 0
    while num_kills < NUM_KILLS:  # a run that was faster than its killers is compared, and another one begun
        work_dir = tmp_path / f"killed-{num_runs}"
        arguments = [*options(work_dir, *more, 1), "--resume", "auto"]
        while num_kills < NUM_KILLS and not _is_finished(work_dir):
            kill_some = _kill_tree if num_kills in of_trees else _kill_ranks
            victim = kill_some(server, arguments, work_dir, dice)
            num_kills += 1
            print(f"kill {num_kills}: {victim} after step {_require_little_lost(work_dir)}", flush=True)
        if not _is_finished(work_dir):
            completed(server, arguments)
        num_runs += 1
        assert weights_of(work_dir) == weights_of(tmp_path / "whole")
    print(f"{num_kills} kills over {num_runs} runs, {NUM_OF_TREES} of them in a tree of xtuner sft")


def _is_finished(work_dir):
    return any(status and status.state == "finished" for status in map(read_status, list_runs(work_dir)))


def _require_little_lost(work_dir):
    """All checkpoints are whole, and the newest one is of the last step that was told, or of the one before it."""
    step = 0
    for run_dir in list_runs(work_dir):
        checkpoints = list_checkpoints(run_dir)
        assert {fault_of(checkpoint) for checkpoint in checkpoints} <= {None}
        step = max(steps_of(run_dir), default=0)
        assert step <= 1 or checkpoints[-1].step >= step - 1 or _is_finished(work_dir)
    return step


def _kill_ranks(server, arguments, _work_dir, dice):
    """Kill all ranks, or one of them, of a run that is forked."""
    started = server.start(*arguments)
    if dice.random() < 0.8:  # else wherever it is on its way to a step
        started.wait_until_it_says(" Step ")
    time.sleep(dice.uniform(0, 1))
    victim = dice.choice(("all ranks", "rank 0", "rank 1"))
    started.send(signal.SIGKILL, None if victim == "all ranks" else [int(victim[-1])])
    started.wait()
    return victim


def _kill_tree(_server, arguments, work_dir, dice):
    """Kill one process of a tree, or all of it; nothing may be left."""
    victim = dice.choice(TREE_VICTIMS)
    is_detached = ["--detach"] if victim == "supervisor" else []
    command = [str(BIN / "xtuner"), "sft", *map(str, arguments), "--nproc-per-node", "2", *is_detached]
    before = _steps_told(work_dir)
    with (work_dir.parent / "trees.txt").open("ab") as output:
        launcher = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        if dice.random() < 0.8 or not IS_LONG:
            # One that had only the model left to write ends without a step.
            wait_for(lambda: _steps_told(work_dir) > before or launcher.poll() is not None)
            time.sleep(dice.uniform(0, 1))
        else:
            time.sleep(dice.uniform(0, _READY_S))
        assert launcher.poll() in (None, 0), (work_dir.parent / "trees.txt").read_text()[-2000:]
        everything = processes_of(work_dir)
        killed_at = time.monotonic()
        kill(_victims(victim, work_dir, launcher, dice))
        launcher.wait()
        wait_until_gone(everything)
        seconds = time.monotonic() - killed_at
        wait_for(lambda: not processes_of(work_dir))  # nor what was started meanwhile
    finally:
        launcher.kill()
        end_all(work_dir)
        launcher.wait()
    return f"{victim} of a tree (all gone after {seconds:.2f} s)"


def _victims(victim, work_dir, launcher, dice):
    """The processes to kill; the whole tree where the one that is meant has not begun."""
    if victim == "cli" and launcher.poll() is None:
        return [psutil.Process(launcher.pid)]
    found = None
    if victim == "supervisor":
        known = [read_supervision(run_dir) for run_dir in list_runs(work_dir)[-1:]]
        found = psutil.Process(known[0].pid) if known and known[0] and known[0].process.is_alive else None
    elif victim == "torchrun":
        found = torchrun_of(work_dir)
    elif victim == "rank":
        ranks = ranks_of(work_dir)
        found = dice.choice(ranks) if ranks else None
    return [found] if found else processes_of(work_dir)


def _steps_told(work_dir):
    """How many steps the first rank has told of, all attempts together."""
    logs = [run_dir.rank_log(0) for run_dir in list_runs(work_dir)]
    return sum(log.read_text(errors="replace").count(" Step ") for log in logs if log.exists())

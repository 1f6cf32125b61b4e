"""SIGTERM, SIGINT and SIGUSR1 in every phase, to every process of a run: one checkpoint, and out; `save-now` too."""

import os
import signal
import subprocess
import time

import pytest
from commands import BIN, ROOT
from processes import end_all, processes_of, ranks_of, torchrun_of, wait_for, wait_until_gone
from trained_runs import completed, trained_run, weights_of

from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.run.status import read_status

IS_LONG = "XTUNER_LONG_FAULTS" in os.environ  # `make faults`

# --- To one rank, which is forked ---

# Where one rank is sent a signal, the exit code, and the step whose state is saved then.
CELLS = [
    ("start", 8, None),
    ("eval.batch", 7, 1),  # before the first step there is nothing to save yet
    ("step", 7, 1),
    ("step:nth=4", 7, 4),
    ("eval.batch:nth=3", 7, 3),
    ("save.written", 7, 3),
    ("eval.batch:nth=5", 7, 6),
    ("export.mkdir:rank=0", 7, 4),  # of the best model so far
    ("export.mkdir:rank=0:nth=2", 0, None),  # all steps are trained
]
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
HIT = (
    [(*cell, name) for cell in CELLS for name in SIGNALS]
    if IS_LONG
    else [(*cell, SIGNALS[number % 3]) for number, cell in enumerate(CELLS)]
)


@pytest.fixture(scope="module")
def evaluated(server, options, chats, tmp_path_factory):
    """The options of runs with evaluations, each of two batches a rank; weights and records of an undisturbed one."""
    more = ("--eval-dataset", chats, "--eval-interval", 3, "--eval-max-packs", 4)
    work_dir = tmp_path_factory.mktemp("evaluated")
    completed(server, options(work_dir, *more))
    return more, weights_of(work_dir), _evaluations(work_dir)


def _evaluations(work_dir):
    return [(record["step"], record["loss"]) for record in read_metrics(trained_run(work_dir).eval_metrics)]


@pytest.mark.parametrize(("point", "code", "step", "name"), HIT)
def test_a_signal_in_any_phase(server, options, tmp_path, evaluated, point, code, step, name):
    more, weights, evaluations = evaluated
    arguments = options(tmp_path, *more)
    ended = server.run(*arguments, fault=f"{point if 'rank' in point else point + ':rank=1'}:{name}")
    assert code in ended.codes and (code == 8 or set(ended.codes) == {code}), ended.output
    [run_dir] = list_runs(tmp_path)
    if step:
        assert list_checkpoints(run_dir)[-1].step == step and not (run_dir.path / "hf-6").exists()
        assert fault_of(list_checkpoints(run_dir)[-1]) is None
        assert read_status(run_dir).state == "stopped"
    if code:
        completed(server, [*arguments, "--resume", "auto"])
    assert weights_of(tmp_path) == weights
    if point != "eval.batch":  # there the one before the first step was left, and not made up for
        assert _evaluations(tmp_path) == evaluations


# --- To a process of a whole tree ---

# Where rank 0 is when the signal comes, the exit code, and the step whose state is saved then.
PHASES = {
    "start": ("start", 8, None),
    "first step": ("step", 7, 1),
    "step": ("step:nth=4", 7, 4),
    "evaluation": ("eval.batch:nth=3", 7, 3),
    "save": ("save.written", 7, 3),
    "export": ("export.mkdir", 7, 4),
}
TARGETS = ("cli", "torchrun", "rank", "cli, with a dead peer")
# The command line is sent a signal in training by the test after this one.
TREE_CELLS = [(target, phase) for target in TARGETS for phase in PHASES] if IS_LONG else [("torchrun", "save")]


@pytest.mark.parametrize(("target", "phase"), TREE_CELLS)
def test_a_signal_to_any_process_in_any_phase(server, options, tmp_path, evaluated, target, phase):
    more, weights, _ = evaluated
    point, code, step = PHASES[phase]
    gate, work_dir = tmp_path / "gate", tmp_path / "runs"
    arguments = options(work_dir, *more)
    number = getattr(signal, SIGNALS[(TARGETS.index(target) + list(PHASES).index(phase)) % 3])
    with _started(arguments, XTUNER_FAULT=f"{point}:rank=0:hold={gate}") as process:
        try:
            wait_for(lambda: gate.exists() or process.poll())
            everything = processes_of(work_dir)
            if "dead peer" in target:
                _rank(work_dir, 1).kill()
            begun_at = time.monotonic()
            _process(target, work_dir, process).send_signal(number)
            time.sleep(1)  # until it has been passed on; if it is late, it comes a little after the phase
            gate.unlink()
            said = process.communicate()[1]
            wait_until_gone(everything)
            print(f"{number.name} to {target}, {phase}: all gone after {time.monotonic() - begun_at:.1f} s")
        finally:
            process.kill()
            end_all(work_dir)
    [run_dir] = list_runs(work_dir)
    if "dead peer" in target:
        assert process.returncode in (6, 8), said
    else:
        assert process.returncode == code, said
        assert not step or list_checkpoints(run_dir)[-1].step == step
    assert {fault_of(checkpoint) for checkpoint in list_checkpoints(run_dir)} <= {None}
    completed(server, [*arguments, "--resume", "auto"])
    assert weights_of(work_dir) == weights


def _process(target, work_dir, launcher):
    if target == "torchrun":
        return torchrun_of(work_dir)
    return _rank(work_dir, 1) if target == "rank" else launcher


def _rank(work_dir, rank):
    [found] = [process for process in ranks_of(work_dir) if process.environ().get("RANK") == str(rank)]
    return found


def _started(arguments, ranks=2, **environment):
    return subprocess.Popen(
        [str(BIN / "xtuner"), "sft", *map(str, arguments), "--nproc-per-node", str(ranks)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What this process was started to ignore, as shells start what they put into the background, is heard there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _stopped(arguments, number):
    """Start `xtuner sft`, wait for its first step, send it a signal; exit code and what it said."""
    seen = []
    with _started(arguments) as process:
        for line in process.stderr:
            seen.append(line)
            if " Step 1/" in line:
                process.send_signal(number)
    return process.returncode, "".join(seen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_launcher_saves_and_stops(options, tmp_path, number):
    long_run = ("--checkpoint-interval", 100_000, "--scheduler-type", "constant")
    code, said = _stopped(options(tmp_path, *long_run, "--total-step", 2000), number)
    assert code == 7, said
    [run_dir] = list_runs(tmp_path)
    [checkpoint] = list_checkpoints(run_dir)
    assert fault_of(checkpoint) is None
    status = read_status(run_dir)
    assert (status.state, status.exit_code, status.step) == ("stopped", 7, checkpoint.step)
    assert f"after step {checkpoint.step} of 2000; the state is saved" in said
    assert f"--resume {run_dir.path}" in said
    if number == signal.SIGTERM:  # once is enough to see that the launcher can resume too
        more = (*long_run, "--total-step", checkpoint.step + 1, "--resume", "auto")
        with _started(options(tmp_path, *more)) as process:
            said = process.communicate()[1]
        assert process.returncode == 0, said
        assert f"resuming {run_dir.path} after step {checkpoint.step}" in said
        assert (run_dir.logs / "attempt_0").exists() and (run_dir.logs / "attempt_1").exists()


# --- To save without stopping ---


def test_save_now_saves_without_stopping(server, options, tmp_path):
    run = server.start(*options(tmp_path, "--total-step", 100_000, "--checkpoint-interval", 100_000))
    run.wait_until_it_says("Step 2/")
    [run_dir] = list_runs(tmp_path)
    run_dir.save_now.touch()
    run.wait_until_it_says("] saved ")
    while run_dir.save_now.exists():
        time.sleep(0.05)
    assert fault_of(list_checkpoints(run_dir)[0]) is None
    run.send(signal.SIGTERM)
    assert set(run.wait().codes) == {7}

"""Runs that die or are stopped go on from their checkpoint and end with the very weights of an undisturbed run."""

import errno
import os
import signal
import socket
import subprocess

import pytest
from commands import run
from trained_runs import completed, steps_of, weights_of

from xtuner.run.atomic import read_json
from xtuner.run.checkpoints import fault_of, list_checkpoints, sha256_of
from xtuner.run.claim import claim_run, newest_claim
from xtuner.run.index import scan
from xtuner.run.layout import list_runs

IS_LONG = "XTUNER_LONG_FAULTS" in os.environ  # `make faults`
SAVE_POINTS = [(1, 20), (2, 20), (4, 20)] if IS_LONG else [(2, 3)]  # ranks, and at how many saves they die


@pytest.fixture(scope="module")
def undisturbed(server, options, tmp_path_factory):
    """Weights and steps of a run that nothing happens to."""
    work_dir = tmp_path_factory.mktemp("undisturbed")
    completed(server, options(work_dir))
    [run_dir] = list_runs(work_dir)
    return weights_of(work_dir), steps_of(run_dir)


# --- Killed ---

# A point of a save, the rank that dies there, and the steps of the checkpoints that are whole afterwards. Each launch
# goes on where the one before it died, in its first save, the very first launch in its second.
_POINTS_OF_ALL = ("save.snapshot", "save.state", "save.tensors", "save.shard", "save.fsync", "save.written")
_POINTS_OF_FIRST = ("save.metadata", "save.manifest", "meta.MANIFEST.json.pre", "save.rename.pre")
KILLS = [
    ("save.mkdir:rank=0:nth=2", (1,)),
    *((f"{name}:rank={rank}", (1,)) for name in _POINTS_OF_ALL for rank in (0, 1)),
    *((f"{name}:rank=0", (1,)) for name in _POINTS_OF_FIRST),
    ("save.rename.post:rank=0", (1, 2)),
]
_IN_CI = ("save.mkdir", "save.shard:rank=1", "save.written:rank=0", "save.fsync:rank=1", "save.manifest", "save.rename")


def _die(server, arguments, fault, **how):
    """Run until `fault` kills a rank; the whole checkpoints that are left, by their steps."""
    died = server.run(*arguments, "--resume", "auto", fault=f"{fault}:SIGKILL", **how)
    assert -signal.SIGKILL in died.codes and 0 not in died.codes, (fault, died)
    run_dir = list_runs(arguments[arguments.index("--work-dir") + 1])[-1]
    left = list_checkpoints(run_dir)
    assert [fault_of(checkpoint) for checkpoint in left] == [None] * len(left), fault
    return tuple(checkpoint.step for checkpoint in left)


@pytest.mark.parametrize("more", [(), ("--async-checkpoint",)], ids=["sync", "async"])
def test_a_kill_at_any_point_of_a_save_costs_one_interval_at_most(server, options, tmp_path, undisturbed, more):
    arguments = options(tmp_path, "--checkpoint-interval", 1, *more)
    kills = KILLS if IS_LONG else [kill for kill in KILLS if kill[0].startswith(_IN_CI)]
    if more and not IS_LONG:  # the same code runs in the background: a point before the commit and one after it
        kills = [kills[0], kills[2], kills[-1]]
    for fault, steps_left in kills:
        assert _die(server, arguments, fault) == steps_left, fault
    said = completed(server, [*arguments, "--resume", "auto"])
    [run_dir] = list_runs(tmp_path)
    assert f"resumed from {run_dir.checkpoints / 'step-00000002'}: the next step is 3" in said
    assert ("in the background: training waited" in said) == bool(more)
    assert (weights_of(tmp_path), steps_of(run_dir)) == undisturbed
    assert not list(run_dir.checkpoints.glob(".tmp-*"))
    resumed_after = [resumed["after_step"] for resumed in read_json(run_dir.run_json)["resumed"]]
    assert resumed_after == [steps_left[-1] for _, steps_left in kills]


# Where the first rank dies in an export, or while a record is written; whether the export is there afterwards.
EXPORT_KILLS = [
    ("export.mkdir", False),
    ("meta.run.json.pre", False),
    ("export.rename.pre", False),
    ("meta.status.json.pre", False),
    ("export.rename.post", True),
    ("meta..xtuner.pre", True),
    ("export.swap", False),  # the old one of this step is put aside, the new one has no name yet
    ("meta.exports.json.pre", True),
]


def test_a_kill_in_an_export_or_a_record_leaves_no_half_of_one(server, options, tmp_path, undisturbed):
    for fault, is_there in EXPORT_KILLS:
        assert _die(server, options(tmp_path), f"{fault}:rank=0") == (2, 4), fault
        [run_dir] = list_runs(tmp_path)
        [entry] = scan(tmp_path)["runs"]
        assert (entry["exports"], entry["verified_exports"]) == (["hf-6"] if is_there else [], []), fault
        if is_there:
            assert sha256_of(run_dir.export(6) / "model.safetensors") == undisturbed[0], fault
    assert list(run_dir.path.glob(".exports.json.*.tmp"))  # the control: they do leave something
    completed(server, [*options(tmp_path), "--resume", "auto"])
    assert scan(tmp_path)["runs"][0]["verified_exports"] == ["hf-6"]
    assert (weights_of(tmp_path), steps_of(run_dir)) == undisturbed
    assert not [path.name for path in run_dir.path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("ranks", "num_points"), SAVE_POINTS)
def test_every_save_is_resumed_bit_for_bit(server, options, tmp_path, ranks, num_points):
    """Each launch dies right after its first save, so that the last weights have gone through each of them."""
    more = ("--total-step", num_points + 2, "--checkpoint-interval", 1)
    whole, died = options(tmp_path / "whole", *more), options(tmp_path / "died", *more)
    completed(server, whole, ranks=ranks)
    for step in range(1, num_points + 1):
        assert _die(server, died, "save.rename.post:rank=0", ranks=ranks)[-1] == step
    completed(server, [*died, "--resume", "auto"], ranks=ranks)
    _require_same_runs(tmp_path / "died", tmp_path / "whole", ranks)


def _require_same_runs(work_dir, other, ranks):
    assert weights_of(work_dir) == weights_of(other)
    [one], [another] = list_runs(work_dir), list_runs(other)
    for rank in range(ranks):
        assert steps_of(one, rank) == steps_of(another, rank)


# --- Launched twice at once ---


def test_two_launches_at_once_are_two_runs(server, options, tmp_path, undisturbed):
    ended = server.race(*options(tmp_path))
    assert [run.codes for run in ended] == [(0, 0)] * 2, [run.output for run in ended]
    runs = list_runs(tmp_path)
    assert [sha256_of(run.latest_export / "model.safetensors") for run in runs] == [undisturbed[0]] * 2
    assert [run["name"] for run in scan(tmp_path)["runs"]] == [run.name for run in runs]


def test_of_two_that_resume_at_once_one_goes_on(server, options, tmp_path, undisturbed):
    arguments = options(tmp_path)
    _die(server, arguments, "save.rename.post:rank=0")
    # Both have found the run dead before one claims it.
    ended = server.race(*arguments, "--resume", "auto", fault="claim.pre:rank=0:sleep=2")
    loser, winner = sorted(ended, key=lambda run: run.codes, reverse=True)
    assert winner.codes == (0, 0), winner.output
    assert loser.codes == (9, 9), loser.output
    [run_dir] = list_runs(tmp_path)
    assert f"error: the run {run_dir.path} is in use: process {newest_claim(run_dir).process.pid} on " in loser.output
    assert f"hint: look at it with: xtuner monitor {run_dir.path}" in loser.output
    assert loser.output.count("error:") == 1
    assert (weights_of(tmp_path), steps_of(run_dir)) == undisturbed
    assert len(read_json(run_dir.run_json)["resumed"]) == 1


def test_a_launcher_does_not_resume_what_is_claimed(server, options, tmp_path):
    arguments = options(tmp_path)
    _die(server, arguments, "save.rename.post:rank=0")
    [run_dir] = list_runs(tmp_path)
    records = run_dir.run_json.read_text()
    claim_run(run_dir, 0)  # by this process, which is another one to the launcher
    launched = run("xtuner", "sft", *arguments, "--resume", "auto")
    assert launched.returncode == 9, launched.stderr
    assert f"in use: process {os.getpid()} on {socket.gethostname()} goes on with it" in launched.stderr
    assert run_dir.run_json.read_text() == records and not run_dir.supervisor_json.exists()


# --- Every way to train, on any number of ranks ---


@pytest.mark.parametrize(
    "more",
    [
        ("--lora.rank", 4, "--lora.dropout", 0.2),
        ("--optimizer", "muon"),
        ("--tp-size", 2),
        ("--sp-size", 2, "--fsdp-config.recompute-ratio", 1),
    ],
    ids=["lora-dropout", "muon", "tp", "sp"],
)
def test_every_way_to_train_is_resumed_exactly(server, options, tmp_path, more):
    whole, died = options(tmp_path / "whole", *more), options(tmp_path / "died", *more)
    completed(server, whole)
    assert _die(server, died, "save.rename.post") == (2,)
    completed(server, [*died, "--resume", "auto"])
    _require_same_runs(tmp_path / "died", tmp_path / "whole", 2)


def test_other_numbers_of_ranks_go_on_with_the_same_rows(server, options, tmp_path):
    common = ("--global-batch-size", 4, "--checkpoint-interval", 1)
    whole, split = options(tmp_path / "whole", *common), options(tmp_path / "split", *common)
    completed(server, whole, ranks=1)
    for ranks in (1, 2, 4, 1):  # each goes on from the save of the one before, and dies after the next
        _die(server, split, "save.rename.post:rank=0", ranks=ranks)
    completed(server, [*split, "--resume", "auto"], ranks=2)
    [of_whole], [of_split] = list_runs(tmp_path / "whole"), list_runs(tmp_path / "split")
    expected, found = steps_of(of_whole), steps_of(of_split)
    assert expected.keys() == found.keys()
    for step, (_, loss, norm) in expected.items():
        assert found[step][1] == pytest.approx(loss, rel=1e-5)
        assert found[step][2] == pytest.approx(norm, rel=1e-4)


def test_other_data_is_refused(server, options, tmp_path):
    arguments = options(tmp_path)
    _die(server, arguments, "save.rename.post")
    other = [*arguments, "--resume", "auto", "--seed", 7]
    refused = server.run(*other)
    assert refused.codes == (4, 4)
    assert "seed 42 is now 7" in refused.output and "--allow-data-change" in refused.output
    assert "resumed with other data: " in completed(server, [*other, "--allow-data-change"])


# --- Saves that fail ---


# One save after the other fails elsewhere, on one rank alone: before the tensors are written, meanwhile, and after it.
FAILURES = [
    "save.snapshot:rank=1:enospc",
    "save.mkdir:rank=0:nth=2:enospc",
    "save.state:rank=1:eio",
    "save.tensors:rank=1:enospc",
    "save.shard:rank=1:eio",
    "save.fsync:rank=1:eio",
    "save.metadata:rank=0:enospc",
    "save.written:rank=1:enospc",
    "save.manifest:rank=0:enospc",
    "meta.MANIFEST.json.pre:rank=0:enospc",
]
NUM_FAILURES = len(FAILURES)


@pytest.fixture(scope="module")
def longer(server, options, tmp_path_factory):
    """The options of a run in which every save may fail, and the weights of one in which none is made."""
    lengths = ("--total-step", NUM_FAILURES + 5)
    work_dir = tmp_path_factory.mktemp("longer")
    completed(server, options(work_dir, *lengths, "--checkpoint-interval", 1000))
    return (*lengths, "--checkpoint-interval", 1), weights_of(work_dir)


@pytest.mark.parametrize("more", [(), ("--async-checkpoint",)], ids=["sync", "async"])
def test_a_save_that_fails_on_one_rank_costs_a_warning(server, options, tmp_path, longer, more):
    lengths, weights = longer
    fault = ";".join([*FAILURES, "prune.pre:rank=0:eio"])
    said = completed(server, options(tmp_path, *lengths, *more), fault=fault)
    failures = [line for line in said.splitlines() if " could not be saved: rank " in line]
    assert [int(line.partition("of step ")[2].split()[0]) for line in failures] == [*range(1, NUM_FAILURES + 1)]
    for line, failure in zip(failures, FAILURES, strict=True):
        [rank] = [option for option in failure.split(":") if option.startswith("rank=")]
        number = getattr(errno, failure.rpartition(":")[2].upper())
        rank_words = rank.replace("=", " ")
        assert (
            f"could not be saved: {rank_words}: OSError: [Errno {number}] {os.strerror(number)}; training goes on"
            in line
        )
    assert said.count("could not be removed") == 1
    run_dir = _require_saved(tmp_path, [NUM_FAILURES + 3, NUM_FAILURES + 4])
    assert not list(run_dir.checkpoints.glob(".[!.]*")) and weights_of(tmp_path) == weights


def test_an_export_on_the_way_that_fails_costs_a_warning(server, options, tmp_path, undisturbed):
    """Before anything is written, and when all of it is."""
    fault = "export.mkdir:rank=0:enospc;export.rename.pre:rank=0:nth=1:eio"
    said = completed(server, options(tmp_path, "--hf-interval", 2), fault=fault)
    failures = [line for line in said.splitlines() if " could not be exported: OSError: " in line]
    assert [int(line.partition("after step ")[2].split()[0]) for line in failures] == [2, 4]
    assert all(line.endswith("training goes on") for line in failures)
    [run_dir] = list_runs(tmp_path)
    [entry] = scan(tmp_path)["runs"]
    assert entry["exports"] == entry["verified_exports"] == ["hf-6"] and not list(run_dir.path.glob(".tmp-*"))
    assert (weights_of(tmp_path), steps_of(run_dir)) == undisturbed


def _require_saved(work_dir, steps):
    [run_dir] = list_runs(work_dir)
    left = list_checkpoints(run_dir)
    assert [(checkpoint.step, fault_of(checkpoint)) for checkpoint in left] == [(step, None) for step in steps]
    return run_dir


@pytest.mark.parametrize("share", [0.1 * tenth for tenth in range(10)] if IS_LONG else [0.5])
def test_files_that_may_not_grow(server, options, tmp_path, tiny_model, undisturbed, share):
    """RLIMIT_FSIZE ends a write as a full disk does. An export fits below the limit, what a rank saves does not."""
    export = (tiny_model("qwen3") / "model.safetensors").stat().st_size
    limit = int(export * (1.1 + 0.3 * share))  # a rank of two saves half of three times as much
    said = completed(server, options(tmp_path), file_size=limit)
    assert said.count("could not be saved: rank") == 2
    run_dir = _require_saved(tmp_path, [])
    assert not list(run_dir.checkpoints.iterdir()) and weights_of(tmp_path) == undisturbed[0]


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(bytes)` is a directory on a file system of that size."""
    mounted = []

    def mount(size):
        target = tmp_path / "disk"
        target.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "xtuner-test", str(target)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted: {done.stderr.decode().strip()}")
        mounted.append(target)
        return target

    yield mount
    for target in mounted:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize(("size", "saved", "words"), [(3.6, [], "No space left"), (6, [2], "needs about")])
def test_a_full_disk(server, options, small_disk, tiny_model, undisturbed, size, saved, words):
    """In sizes of an export: a checkpoint of three seems to fit into one and does not; a second not into the other."""
    disk = small_disk(int(size * (tiny_model("qwen3") / "model.safetensors").stat().st_size))
    said = completed(server, options(disk))
    for expected in ("of them and the one that is written", words):
        assert expected in said, said
    run_dir = _require_saved(disk, saved)
    assert not list(run_dir.checkpoints.glob(".tmp-*")) and weights_of(disk) == undisturbed[0]


def test_a_work_dir_that_is_read_only(server, options, small_disk):
    disk = small_disk(2**20)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused = server.run(*options(disk / "runs"))
    # Each rank finds out by itself; one that is late is asked to leave.
    assert 5 in refused.codes and set(refused.codes) <= {5, -signal.SIGTERM}
    assert f"the work dir {disk / 'runs'} cannot be written: Read-only file system" in refused.output

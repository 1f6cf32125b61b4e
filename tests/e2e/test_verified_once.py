"""How often a checkpoint is read to be verified: by whom it is decided on, and by nobody else."""

import json
import os
import shutil
from collections import Counter

import pytest
from commands import BIN, ENTRY, run

from xtuner.run.checkpoints import list_checkpoints
from xtuner.run.layout import list_runs

# Who hashes which file; and rank 0 fails in step 3 of the first attempt where the test wants it.
COUNTS = """
import json, os
from xtuner.run import checkpoints
sha256_of = checkpoints.sha256_of
def counted(path):
    with open(os.environ["HASHED"], "a") as file:
        who = "launcher" if "RANK" not in os.environ else "attempt " + os.environ["TORCHELASTIC_RESTART_COUNT"]
        file.write(json.dumps([who, str(path)]) + "\\n")
    return sha256_of(path)
checkpoints.sha256_of = counted
if os.environ.get("RANK") == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and "FAILS" in os.environ:
    from xtuner.run import metrics
    write = metrics.MetricsWriter.write
    def broken(self, record):
        if record.get("step") == 3:
            raise ValueError("injected")
        write(self, record)
    metrics.MetricsWriter.write = broken
"""


@pytest.fixture(scope="module")
def dead_run(tiny_model, chats, tmp_path_factory):
    """The flags of a run that failed in step 3, and its work dir, which has a checkpoint of step 2."""
    directory = tmp_path_factory.mktemp("dead")
    (directory / "sitecustomize.py").write_text(COUNTS)
    flags = ["--load-from", tiny_model("llama"), "--dataset", chats, "--total-step", 4, "--checkpoint-interval", 2]
    done = run("xtuner", "sft", *flags, "--nproc-per-node", 1, "--work-dir", directory / "w", env=_env(directory, True))
    assert done.returncode == 6 and "injected" in done.stderr, done.stderr
    return flags, directory


def _env(directory, fails):
    path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "HASHED": str(directory / "hashed.jsonl"), **({"FAILS": "1"} if fails else {})}


@pytest.mark.parametrize(
    ("launcher", "fails", "readers"),
    [
        (["xtuner", "sft", "--nproc-per-node", 1], False, ["launcher"]),
        (["xtuner", "sft", "--nproc-per-node", 1, "--max-restarts", 1], True, ["launcher", "attempt 1"]),
        ([str(BIN / "torchrun"), "--standalone", "--nproc-per-node", 1, ENTRY], False, ["attempt 0"]),
    ],
    ids=["launched", "restarted", "torchrun"],
)
def test_each_file_of_the_checkpoint_is_hashed_once_by_each_who_decides(dead_run, tmp_path, launcher, fails, readers):
    flags, directory = dead_run
    work_dir = shutil.copytree(directory / "w", tmp_path / "w", symlinks=True)
    shutil.copy(directory / "sitecustomize.py", tmp_path)
    [run_dir] = list_runs(work_dir)
    [checkpoint] = list_checkpoints(run_dir)
    done = run(*launcher, *flags, "--work-dir", work_dir, "--resume", "auto", env=_env(tmp_path, fails))
    assert done.returncode == 0 and list_runs(work_dir) == [run_dir], done.stderr
    assert "resumed from" in run_dir.rank_log(0).read_text()
    hashed = Counter(tuple(json.loads(line)) for line in (tmp_path / "hashed.jsonl").read_text().splitlines())
    files = [entry["name"] for entry in checkpoint.manifest()["files"]]
    assert len(files) >= 3
    of_checkpoint = {key: count for key, count in hashed.items() if f"/{checkpoint.path.name}/" in key[1]}
    assert of_checkpoint == {(who, str(checkpoint.path / name)): 1 for who in readers for name in files}

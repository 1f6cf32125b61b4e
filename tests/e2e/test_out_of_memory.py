"""A rank whose memory is limited in the middle of a run: the words and the exit code a user sees."""

import json
import os

import pytest
from commands import ENTRY, run

from xtuner.run.layout import list_runs

# After step 1, rank 1 may have 64 MiB more address space, and each of its modules asks for 2 GiB.
_STARVE = """
import os
if os.environ.get("RANK") == "1":
    from xtuner.run import metrics
    write = metrics.MetricsWriter.write
    def starving(self, record):
        write(self, record)
        import pathlib, resource, torch
        if record["step"] == 1:
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**26
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: torch.empty(2**29).fill_(1))
    metrics.MetricsWriter.write = starving
"""


@pytest.mark.parametrize("entry", ["xtuner", "torchrun"])
def test_the_rank_says_what_was_full_and_what_would_help(tiny_model, chats, tmp_path, entry):
    (tmp_path / "sitecustomize.py").write_text(_STARVE)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    flags = ["--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w", "--total-step", 9]
    if entry == "xtuner":
        done = run("xtuner", "sft", *flags, "--nproc-per-node", 2, env={"PYTHONPATH": path})
        assert done.returncode == 6, done.stderr
    else:
        done = run("torchrun", "--nproc-per-node", 2, "--master-port", 29655, ENTRY, *flags, env={"PYTHONPATH": path})
        assert done.returncode != 0
    errors = done.stderr
    assert "rank 1 ran out of memory in step 2 asking for 2.00 GiB" in errors
    assert "its longest pack has" in errors and "GiB reserved" in errors
    assert "hint: the cheapest first: --pack-max-length 2048 (frees about" in errors
    assert "cpu-offload" not in errors  # on a CPU there is nothing to free by it
    [run_dir] = list_runs(tmp_path / "w")
    log = run_dir.rank_log(1).read_text()
    assert "step 2: OutOfMemory: rank 1 ran out of memory" in log
    assert json.loads(run_dir.status_json.read_text())["state"] == "failed" or entry == "torchrun"

"""Whole runs on a GPU: as on a CPU in fp32, near it in bf16 with each option, and the ends that only a GPU has."""

import os

import pytest
import scripted_models
import tiny_models
import torch
from commands import run
from terminals import Terminal

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
FP32 = ["--fsdp-config.compute-dtype", "float32"]
OPTIONS = {
    "defaults": [],
    "kept activations": ["--fsdp-config.recompute-ratio", 0],
    "offload": ["--fsdp-config.cpu-offload"],
    "compiled": ["--fsdp-config.torch-compile"],
    "document by document": ["--attention", "sdpa"],
    "accumulated": ["--global-batch-size", 3],
    "muon": ["--optimizer", "muon"],
    "8 bits": ["--optimizer", "adamw-8bit"],
    "lora": ["--lora.rank", 4, "--lr", 1e-3],
}


def _sft(model, chats, work_dir, *flags, env=None):
    fixed = ["--nproc-per-node", 1, "--pack-max-length", 512, "--max-length", 512, "--lr", 1e-3]
    return run(
        "xtuner", "sft", "--load-from", model, "--dataset", chats, "--work-dir", work_dir, *fixed, *flags, env=env or {}
    )


def _train(*arguments, **options):
    """Records of the steps of a run that came to its end, and its directory."""
    done = _sft(*arguments, **options)
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(arguments[2])
    newest = {it["step"]: it for it in read_metrics(run_dir.rank_metrics(0)) if "total_loss" in it}
    return [newest[step] for step in sorted(newest)], run_dir


def _losses(records):
    return [record["reduced_llm_loss"] for record in records]


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_fp32_is_as_on_a_cpu(architecture, tiny_model, chats, tmp_path):
    flags = (*FP32, "--total-step", 4)
    there, _ = _train(tiny_model(architecture), chats, tmp_path / "gpu", *flags)
    here, _ = _train(tiny_model(architecture), chats, tmp_path / "cpu", *flags, env=ON_CPU)
    assert _losses(there) == pytest.approx(_losses(here), rel=1e-3)
    norms = [[record["grad_norm"] for record in records] for records in (there, here)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert _losses(there)[-1] < _losses(there)[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_bf16_is_near_fp32(name, tiny_model, chats, tmp_path):
    if name == "8 bits":
        pytest.importorskip("torchao")
    flags = (*OPTIONS[name], "--total-step", 4)
    bf16, run_dir = _train(tiny_model("qwen3"), chats, tmp_path / "bf16", *flags)
    fp32, _ = _train(tiny_model("qwen3"), chats, tmp_path / "fp32", *flags, *FP32)
    assert _losses(bf16) == pytest.approx(_losses(fp32), rel=2e-2)
    assert _losses(bf16)[-1] < _losses(bf16)[0]
    log = run_dir.rank_log(0).read_text()
    assert "compute in bfloat16" in log
    device_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    assert all(0 < record["max_memory"] <= record["reserved_memory"] < device_gib for record in bf16)


# In step 5 of the first attempt.
_BREAK = """
import os
from xtuner.run import metrics
write = metrics.MetricsWriter.write
def broken(self, record):
    if record.get("step") == 5 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        raise ValueError("injected")
    write(self, record)
metrics.MetricsWriter.write = broken
"""


@pytest.mark.parametrize("how", ["--async-checkpoint", "--fsdp-config.cpu-offload", "--lora.rank=4"])
def test_a_run_that_broke_goes_on_as_if_it_had_not(how, tiny_model, chats, tmp_path):
    flags = (how, *FP32, "--total-step", 7, "--checkpoint-interval", 3)
    whole, _ = _train(tiny_model("llama"), chats, tmp_path / "whole", *flags)
    (tmp_path / "sitecustomize.py").write_text(_BREAK)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    broken, run_dir = _train(
        tiny_model("llama"), chats, tmp_path / "broken", *flags, "--max-restarts", 1, env={"PYTHONPATH": path}
    )
    assert "injected" in (run_dir.attempt_logs(0) / "0" / "stderr.log").read_text()
    # Kernels may add up in another order from run to run; state that was lost would show more.
    assert _losses(broken) == pytest.approx(_losses(whole), rel=1e-4)
    checkpoint = sorted(run_dir.checkpoints.iterdir())[-1]
    done = run("xtuner", "export", checkpoint, "--to", tmp_path / "exported", env=ON_CPU)
    assert done.returncode == 0, done.stderr


def test_evaluation_and_replies(tiny_model, chats, tmp_path):
    held_out = tiny_models.make_chats(tmp_path / "eval.jsonl", num_rows=30, seed=7)
    flags = ("--eval-dataset", held_out, "--eval-interval", 2, "--eval-generations", 2, *FP32, "--total-step", 4)
    _, there = _train(tiny_model("qwen3"), chats, tmp_path / "gpu", *flags)
    _, here = _train(tiny_model("qwen3"), chats, tmp_path / "cpu", *flags, env=ON_CPU)
    losses = [[record["loss"] for record in read_metrics(it.eval_metrics)] for it in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 3


def test_out_of_memory_on_the_device(tiny_model, chats, tmp_path):
    """After step 1 each module asks for 2 GiB of a device of which the process may have a thousandth more."""
    (tmp_path / "sitecustomize.py").write_text("""
import os
if "RANK" in os.environ:
    from xtuner.run import metrics
    write = metrics.MetricsWriter.write
    def starving(self, record):
        write(self, record)
        import torch
        if record["step"] == 1:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total + 1e-3)
            torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: torch.empty(2**29, device="cuda"))
    metrics.MetricsWriter.write = starving
""")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = _sft(tiny_model("llama"), chats, tmp_path / "w", "--total-step", 9, env={"PYTHONPATH": path})
    assert done.returncode == 6, done.stderr
    assert "rank 0 ran out of memory in step 2 asking for 2.00 GiB" in done.stderr
    assert torch.cuda.get_device_name(0) in done.stderr and "hint: the cheapest first:" in done.stderr


def test_a_chat(tmp_path):
    model = scripted_models.make_scripted_model(tmp_path / "chatty", scripted_models.CHINESE)
    with Terminal("chat", model, "--device", "cuda") as terminal:
        terminal.read_until("Ctrl-D leaves")
        terminal.read_until("> ")
        terminal.type("Who are you?\r")
        terminal.read_until(scripted_models.CHINESE)


@pytest.mark.parametrize("flags", [[], ["--sp-size", 2], ["--tp-size", 2], ["--fsdp-config.hsdp-sharding-size", 1]])
def test_two_gpus_are_as_one(flags, tiny_model, chats, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    common = (*FP32, "--total-step", 4, "--global-batch-size", 4)
    one, _ = _train(tiny_model("llama"), chats, tmp_path / "one", *common)
    two, _ = _train(tiny_model("llama"), chats, tmp_path / "two", *common, "--nproc-per-node", 2, *flags)
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-4)

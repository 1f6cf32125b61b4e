"""The main job as its users type it: torchrun on the entry script, and `xtuner sft`."""

import json
import math
import os
import shlex
from pathlib import Path

import psutil
import pytest
import torch
from commands import ENTRY, run
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.run.layout import list_runs
from xtuner.run.logline import StepLine, format_step, parse
from xtuner.run.metrics import read_metrics


@pytest.fixture(scope="module")
def finished(tiny_model, chats, tmp_path_factory):
    """The workflow of the README, verbatim but for the paths: 2 ranks, 100 steps, 120 chats."""
    work_dir = tmp_path_factory.mktemp("work dir")
    done = run(
        *["torchrun", "--nproc-per-node", 2, ENTRY, "--load-from", tiny_model("qwen3"), "--dataset", chats],
        *["--total-step", 100, "--work-dir", work_dir],
    )
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(work_dir)
    return run_dir, done


def _steps(text):
    lines = [line for line in map(parse, text.splitlines()) if isinstance(line, StepLine)]
    return [[line for line in lines if line.rank == rank] for rank in (0, 1)]


def test_every_rank_says_every_step_in_the_format_of_the_design(finished):
    run_dir, done = finished
    for rank, lines in enumerate(_steps(done.stderr)):
        assert [line.step for line in lines] == list(range(1, 101))
        in_file = [text for text in run_dir.rank_log(rank).read_text().splitlines() if " Step " in text]
        assert in_file == [text for text in done.stderr.splitlines() if f"[RANK {rank}]" in text and " Step " in text]
        assert all(format_step(parse(text)) == text for text in in_file)
        assert "lr: 0.000020" in in_file[0] and "lr: 0.000040" in in_file[1]


def test_values_are_what_the_design_says_they_are(finished):
    run_dir, _ = finished
    records = [list(read_metrics(run_dir.rank_metrics(rank))) for rank in (0, 1)]
    tokens = elapsed = 0.0
    for own, other in zip(*records, strict=True):
        assert own["tgs"] == pytest.approx(own["text_tokens"] / own["time"])
        tokens, elapsed = tokens + own["text_tokens"], elapsed + own["time"] + own["data_time"]
        assert own["e2e_tgs"] == pytest.approx(tokens / elapsed)
        assert own["reduced_llm_loss"] == other["reduced_llm_loss"] and own["grad_norm"] == other["grad_norm"]
        assert min(own["total_loss"], other["total_loss"]) <= own["reduced_llm_loss"]
        assert own["reduced_llm_loss"] <= max(own["total_loss"], other["total_loss"])
    losses = [record["reduced_llm_loss"] for record in records[0]]
    assert losses[-1] < losses[0] - 0.1 and all(map(math.isfinite, losses))


def test_the_run_directory_tells_the_run(finished):
    run_dir, _ = finished
    index = json.loads((run_dir.work_dir / ".xtuner").read_text())
    [entry] = index["runs"]
    assert (entry["name"], entry["state"]) == (run_dir.name, "finished")
    assert entry["exports"] == entry["verified_exports"] == ["hf-100"]
    status = json.loads(run_dir.status_json.read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("finished", 100, 0)
    config = json.loads(run_dir.config_json.read_text())
    assert config["total_step"] == 100 and config["lr"] == 6e-5
    record = json.loads(run_dir.run_json.read_text())
    assert record["versions"]["torch"] == torch.__version__
    machine_gib = psutil.virtual_memory().total / 2**30
    assert record["device_memory_gib"] == pytest.approx(machine_gib / 2, abs=0.1)


def test_the_export_loads_in_plain_transformers(finished, tiny_model):
    run_dir, _ = finished
    model, info = AutoModelForCausalLM.from_pretrained(run_dir.latest_export, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"))
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(run_dir.latest_export)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**inputs, max_new_tokens=4, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_monitor_and_runs_read_the_finished_run(finished):
    run_dir, _ = finished
    done = run("xtuner", "monitor", run_dir.work_dir, "--json")
    summary = json.loads(done.stdout)
    assert (summary["state"], summary["step"], summary["last_steps"]) == ("finished", 100, {"0": 100, "1": 100})
    # The test's model has random weights, and the monitor says so.
    assert "random-weights" in [alert["kind"] for alert in summary["alerts"]] and done.returncode == 1
    followed = run("xtuner", "monitor", run_dir.path)
    assert followed.stdout.splitlines() == run_dir.rank_log(0).read_text().splitlines()
    assert "finished" in run("xtuner", "runs", run_dir.work_dir).stdout


def test_sft_launches_the_same_and_prints_where_the_model_is(tiny_model, chats, tmp_path):
    flags = [
        "--load-from",
        tiny_model("qwen3_moe"),
        "--dataset",
        chats,
        "--total-step",
        3,
        "--work-dir",
        tmp_path / "w",
    ]
    planned = run("xtuner", "sft", *flags, "--nproc-per-node", 2, "--dry-run")
    command, _, config = planned.stdout.partition("\n")
    assert json.loads(config)["total_step"] == 3 and not (tmp_path / "w").exists()
    assert "--nproc-per-node=2" in shlex.split(command)

    done = run("xtuner", "sft", *flags, "--nproc-per-node", 2)
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(tmp_path / "w")
    assert done.stdout.strip() == str(run_dir.latest_export) and (run_dir.latest_export / "config.json").exists()
    assert len(_steps(done.stderr)[0]) == 3 and not _steps(done.stderr)[1]
    assert (run_dir.logs / "attempt_0" / "1" / "stderr.log").exists()
    peak_gib = max(record["max_memory"] for rank in (0, 1) for record in read_metrics(run_dir.rank_metrics(rank)))
    record = json.loads(run_dir.run_json.read_text())
    assert record["memory_estimate_gib"] == pytest.approx(peak_gib, rel=0.2)


def test_random_weights_with_a_python_config_and_the_python_api(tiny_model, chats, tmp_path):
    source = tiny_model("llama")
    config = tmp_path / "config.py"
    config.write_text(
        "from xtuner.v1.train import TrainerConfig\n"
        f"trainer = TrainerConfig(model_cfg={str(source / 'config.json')!r}, tokenizer_path={str(source)!r},\n"
        f"    dataset={str(chats)!r}, total_step=9, work_dir={str(tmp_path / 'w')!r})\n"
    )
    done = run("torchrun", "--nproc-per-node", 2, ENTRY, "--config", config, "--total-step", 2)
    assert done.returncode == 0, done.stderr
    first = _steps(done.stderr)[0]
    assert len(first) == 2 and first[0].values["reduced_llm_loss"] == pytest.approx(math.log(512), abs=0.2)

    script = tmp_path / "train.py"
    script.write_text(
        "import runpy\nfrom xtuner.v1.train import Trainer\n"
        f"config = runpy.run_path({str(config)!r})['trainer'].model_copy(update=dict(total_step=2))\n"
        "print(Trainer(config).fit())\n"
    )
    api = run("torchrun", "--nproc-per-node", 1, script)
    assert api.returncode == 0, api.stderr
    assert (Path(api.stdout.strip()) / "model.safetensors").exists()
    assert _steps(api.stderr)[0][0].values["reduced_llm_loss"] == pytest.approx(math.log(512), abs=0.2)


GUARD = """
import os, socket
def refuse(address):
    open(os.environ["MARKER"], "a").write(f"{address}\\n")
    raise OSError("the test allows no connection outside this machine")
def guarded(name):
    real = getattr(socket.socket, name)
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            refuse(address)
        return real(self, address)
    setattr(socket.socket, name, connect)
guarded("connect"), guarded("connect_ex")
real_lookup = socket.getaddrinfo
def lookup(host, *rest, **more):
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname(), socket.getfqdn()):
        refuse(host)
    return real_lookup(host, *rest, **more)
socket.getaddrinfo = lookup
"""


def test_a_run_asks_nobody_outside_this_machine(tiny_model, chats, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    marker = tmp_path / "marker"
    environment = {"PYTHONPATH": path, "MARKER": str(marker), "HF_HUB_OFFLINE": ""}  # the run must set it itself
    flags = ["--load-from", tiny_model("qwen3"), "--dataset", chats, "--total-step", 2, "--work-dir", tmp_path / "w"]
    done = run("xtuner", "sft", *flags, env=environment)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()

    control = run(
        "python", "-c", "import socket; socket.create_connection(('model.hub.invalid', 443))", env=environment
    )
    assert control.returncode != 0 and "model.hub.invalid" in marker.read_text()

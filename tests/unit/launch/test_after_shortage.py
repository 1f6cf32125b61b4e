"""What is suggested when memory ran out fits by the measure of the run that failed."""

import json

import pytest

from xtuner.launch.after_shortage import advice_after_kill, advice_after_shortage, way_after_shortage
from xtuner.launch.devices import Hardware, find_hardware
from xtuner.launch.estimate import BASE_GIB, estimate
from xtuner.launch.failure import explain_failure
from xtuner.launch.fit import with_changes
from xtuner.launch.job import Job
from xtuner.launch.model_sizes import sizes_of
from xtuner.run.layout import RunDir
from xtuner.v1.config.files import resolve_config

_CONFIG_JSON = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "vocab_size": 8192,
}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(_CONFIG_JSON))
    return resolve_config({"model_cfg": tmp_path / "config.json", "pack_max_length": 32768, "loss_chunk_size": 8192})


@pytest.mark.parametrize("hardware", [Hardware("cuda", "card", 1, 80.0, 512.0), Hardware("cpu", "it", 0, 64.0, 64.0)])
@pytest.mark.parametrize(("truth", "share"), [(0.8, 0.9), (1.0, 0.75), (1.06, 0.5), (1.5, 0.99)])
def test_the_suggestion_fits_even_where_the_estimate_is_wrong(config, hardware, truth, share):
    """The run needs `truth` times the estimate and there is a share of that, all of which it had when it failed.

    How wrong an estimate is that was too low is known as far as the run came: by the last case nearly to its peak.
    """
    sizes = sizes_of(config)
    there_is = share * truth * estimate(config, sizes, hardware, nproc=1).memory.total
    counted = there_is - (BASE_GIB["cuda"] if hardware.kind == "cuda" else 0.0)
    way = way_after_shortage(config, sizes, hardware, needed_gib=counted, nproc=1)
    assert way is not None and way.changes and way.needed <= way.usable < there_is
    fitted = estimate(with_changes(config, way.changes), sizes, hardware, nproc=1).memory.total
    assert truth * fitted <= there_is


def test_nothing_is_suggested_where_nothing_helps(config):
    hardware = Hardware("cpu", "it", 0, 64.0, 64.0)
    assert way_after_shortage(config, sizes_of(config), hardware, needed_gib=0.2, nproc=1) is None


def _failed_launch(tmp_path, config, **memory):
    """What a run leaves whose rank 1 of 2 asked for too much."""
    run_dir = RunDir.create(tmp_path / "w")
    run_dir.config_json.write_text(json.dumps(config.model_dump(mode="json")))
    job = Job(("torchrun",), run_dir.logs / "torchrun", run_dir, 2)
    note = job.log_dir / "x" / "attempt_0" / "1" / "error.json"
    note.parent.mkdir(parents=True)
    extra = {"rank": 1, "step": 2, "time": 1.0, "exit_code": 6, "py_callstack": "Traceback", "timestamp": "1"}
    extra |= {"message": "rank 1 ran out of memory in step 2", "hint": "the cheapest first: ...", **memory}
    note.write_text(json.dumps({"message": {"message": "m", "extraInfo": extra}}))
    return job


def test_the_launcher_adds_options_that_are_likely_to_fit(monkeypatch, tmp_path, config):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = _failed_launch(tmp_path, config, needed_gib=4.0, num_ranks=2, num_local_ranks=2)
    hint = explain_failure(job.log_dir, "", job).hint
    assert hint.startswith("the cheapest first: ...\nlikely to fit, by what this run took: --")
    assert "--fsdp-config.recompute-ratio 1.0" in hint and "GiB)" in hint
    assert explain_failure(job.log_dir, "").hint == "the cheapest first: ..."


def test_other_failures_and_unknown_models_get_no_options(monkeypatch, tmp_path, config):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = _failed_launch(tmp_path, config)
    assert explain_failure(job.log_dir, "", job).hint == "the cheapest first: ..."
    config.model_cfg.unlink()
    assert advice_after_shortage(job.run_dir, needed_gib=4.0, nproc=2, nnodes=1) == ""
    job.run_dir.config_json.unlink()
    assert advice_after_shortage(job.run_dir, needed_gib=4.0, nproc=2, nnodes=1) == ""


def test_a_killed_rank_gets_options_where_memory_may_be_why(monkeypatch, tmp_path, config):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    small = config.model_copy(update={"pack_max_length": 512})
    job = _failed_launch(tmp_path / "small", small)
    assert advice_after_kill(job.run_dir, nproc=1, nnodes=1) == ""
    # A run that takes the whole machine: packs as long as that needs.
    host_gib, length = find_hardware().host_gib, 32768
    while estimate(config, sizes_of(config), find_hardware(), nproc=1).host < host_gib:
        length *= 2
        config = config.model_copy(update={"pack_max_length": length})
    job = _failed_launch(tmp_path / "large", config)
    assert advice_after_kill(job.run_dir, nproc=1, nnodes=1).startswith("likely to fit")

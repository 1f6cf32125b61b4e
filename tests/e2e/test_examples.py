"""What stands in `examples/` runs as its README says."""

import shutil

import pytest
from commands import ROOT, run

from xtuner.run.layout import list_runs

EXAMPLES = ROOT / "examples"


@pytest.fixture
def start(tmp_path):
    """Runs a command beside a copy of the examples, as in a clone of the repository."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")

    def of(*command, **environment):
        return run(*command, cwd=tmp_path, env=environment)

    return of


def test_the_readme_tells_of_each():
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"]({path.name})" in text for path in EXAMPLES.iterdir() if path.name != "README.md")


@pytest.mark.parametrize(
    ("name", "num_ranks"),
    [("full.yaml", 1), ("lora.yaml", 1), ("mixture.yaml", 1), ("long_context.yaml", 2), ("config.py", 1)],
)
def test_a_config_trains(tiny_model, start, tmp_path, name, num_ranks):
    model = tiny_model("qwen3")
    flags = ["--load-from", model, "--epoch-num", 1, "--nproc-per-node", num_ranks]
    done = start("xtuner", "sft", "--config", f"examples/{name}", *flags, MODEL_DIR=str(model))
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(tmp_path / "work_dirs" / name.partition(".")[0])
    assert (run_dir.latest_export / "model.safetensors").exists()
    assert (run_dir.path / "adapter-latest").exists() == (name == "lora.yaml")


def test_a_script_trains(tiny_model, start, tmp_path):
    done = start("torchrun", "--standalone", "--nproc-per-node", 2, "examples/train.py", tiny_model("qwen3"))
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(tmp_path / "work_dirs" / "train")
    assert (run_dir.latest_export / "model.safetensors").exists()

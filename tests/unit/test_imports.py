"""What starts at once imports little: looked up in `sys.modules` of a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

import xtuner.v1.train


def _modules_after(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print('MODULES', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.rpartition("MODULES ")[2].split())


RUN_CLI = """
import sys
from pathlib import Path
sys.argv = ["xtuner", *{arguments!r}]
from xtuner.cli.app import run
try:
    run()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sft"],
        ["check-model"],
        ["monitor"],
        ["runs"],
        ["attach"],
        ["stop"],
        ["demo"],
        ["plan"],
        ["preview"],
        ["cache"],
        ["chat"],
        ["download"],
    ],
)
def test_help_imports_neither_torch_nor_transformers(command):
    modules = _modules_after(RUN_CLI.format(arguments=[*command, "--help"]))
    assert "xtuner.cli.app" in modules
    assert not modules & {"torch", "transformers", "numpy", "textual", "safetensors", "huggingface_hub"}


def test_what_supervises_a_detached_run_stays_small():
    """It lives as long as the training does."""
    modules = _modules_after("import xtuner.launch.entry.supervisor")
    assert "xtuner.launch.supervise" in modules
    assert not modules & {"torch", "transformers", "numpy", "textual", "pydantic", "typer", "rich", "yaml"}


def test_check_model_and_monitor_run_without_numpy(tmp_path):
    for command in (["check-model", str(tmp_path)], ["monitor", str(tmp_path), "--once"], ["runs", str(tmp_path)]):
        assert not _modules_after(RUN_CLI.format(arguments=command)) & {"torch", "transformers", "numpy"}


def test_check_model_runs_without_pydantic(tmp_path):
    """Typer would import it to look at the path, and the command would take twice as long."""
    modules = _modules_after(RUN_CLI.format(arguments=["check-model", str(tmp_path), "--json"]))
    assert "xtuner.hub.model_dir" in modules and not modules & {"pydantic", "rich"}


def test_data_and_preflight_work_without_torch(tiny_model, chats):
    program = (
        "from xtuner.preflight import check_inputs, prepare_training_data\nfrom xtuner.v1.config import TrainerConfig\n"
        f"config = TrainerConfig(load_from={str(tiny_model('qwen3'))!r}, dataset={str(chats)!r})\n"
        "check_inputs(config, 1)\nassert prepare_training_data(config).counts.rows == 120"
    )
    modules = _modules_after(program)
    assert "numpy" in modules and not modules & {"torch", "transformers", "tokenizers"}  # its workers load them


def test_run_directory_is_standard_library_only():
    program = (
        "import xtuner.run.index, xtuner.run.layout, xtuner.run.logline, xtuner.run.metrics, xtuner.run.record\n"
        "import xtuner.run.status, xtuner.run.summary, xtuner.run.tail, xtuner.run.text"
    )
    outside = {name.partition(".")[0] for name in _modules_after(program)} - set(sys.stdlib_module_names)
    assert outside <= {"xtuner", "__main__", "__mp_main__", "sitecustomize", "_distutils_hack", "_virtualenv"} | {
        name for name in outside if name.startswith(("_", "__editable__"))
    }


def test_public_names_are_these_and_lazy():
    assert xtuner.v1.train.__all__ == ["DatasetConfig", "FSDPConfig", "LoraConfig", "Trainer", "TrainerConfig"]
    assert "torch" not in _modules_after("from xtuner.v1.train import TrainerConfig")
    with pytest.raises(AttributeError):
        xtuner.v1.train.Nothing  # noqa: B018


def test_widgets_import_neither_numpy_nor_pydantic():
    assert "xtuner.tui.widgets.chart" not in _modules_after("import xtuner.tui.widgets")
    program = (
        "import pkgutil, importlib, xtuner.tui.widgets as room\n"
        "names = [module.name for module in pkgutil.iter_modules(room.__path__)]\n"
        "assert 'chart' in names and 'log_view' in names\n"
        "for name in names: importlib.import_module(f'xtuner.tui.widgets.{name}')"
    )
    modules = _modules_after(program)
    assert "textual" in modules and not modules & {"torch", "transformers", "numpy", "pydantic", "safetensors"}


def test_the_dashboard_imports_neither_torch_nor_numpy_nor_pydantic(tmp_path):
    """Nor is it loaded where it is not shown."""
    tests = str(Path(__file__).parent.parent)
    program = (
        f"import asyncio, sys\nfrom pathlib import Path\nsys.path.insert(0, {tests!r})\n"
        "from monitor_runs import healthy_run\nfrom xtuner.tui.monitor.app import MonitorApp\n"
        "from xtuner.tui.monitor.runs import RunList\n"
        f"work_dir = Path({str(tmp_path)!r})\nhealthy_run(work_dir)\n"
        "async def main():\n    app = MonitorApp(RunList(work_dir))\n"
        "    async with app.run_test(size=(120, 36)) as pilot:\n"
        "        for key in '23451':\n            await pilot.press(key)\n            await pilot.pause()\n"
        "asyncio.run(main())"
    )
    modules = _modules_after(program)
    assert "xtuner.tui.monitor.run_pane" in modules
    assert not modules & {"torch", "transformers", "numpy", "pydantic", "safetensors", "huggingface_hub"}
    assert not modules & {"aiohttp", "textual_serve", "resvg_py", "tomllib", "xtuner.tui.monitor.report"}, "on demand"
    plain = _modules_after(RUN_CLI.format(arguments=["monitor", str(tmp_path), "--once"]))
    assert not plain & {"textual", "torch", "numpy", "pydantic"}

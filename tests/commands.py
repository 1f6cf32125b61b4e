"""How the e2e tests run commands."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
ENTRY = "xtuner/v1/train/cli/sft.py"


def run(*command: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in the repository root, or in `cwd`; names of installed scripts are found beside this Python."""
    program, *arguments = map(str, command)
    program = str(BIN / program) if (BIN / program).exists() else program
    environment = {**os.environ, "NO_COLOR": "1", **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [program, *arguments],
        cwd=options.pop("cwd", ROOT),  # type: ignore[arg-type]
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,  # type: ignore[call-overload]
    )

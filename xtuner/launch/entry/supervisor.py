"""Supervises a detached launch to its end: supervisor.py JOB_FILE; what it says goes to the file it was given."""

import sys
from datetime import datetime
from pathlib import Path

from xtuner.errors import XTunerError
from xtuner.launch.job import read_job
from xtuner.launch.supervise import run_to_end
from xtuner.run.text import describe_error, visible


def main() -> None:
    """Run the job, and leave with the exit code of its end."""
    try:
        run_to_end(read_job(Path(sys.argv[1])), is_detached=True, say=_say)
    except XTunerError as error:
        _say(describe_error(error))
        raise SystemExit(error.exit_code) from None
    _say("finished")


def _say(text: str) -> None:
    print(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {visible(text)}", flush=True)


if __name__ == "__main__":
    main()

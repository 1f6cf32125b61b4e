"""What a rank says: each line to stderr and to its log file, each step to its metrics file as well."""

import sys
from datetime import datetime
from typing import TextIO

from xtuner.run.layout import RunDir
from xtuner.run.logline import STEP_KEYS, StepLine, format_log, format_step
from xtuner.run.metrics import MetricsWriter


class RankLog:
    """The log of one rank; every line is flushed, so that a reader sees it at once."""

    def __init__(self, run_dir: RunDir, rank: int) -> None:
        self._rank = rank
        self._file: TextIO = run_dir.rank_log(rank).open("a", encoding="utf-8")
        self._metrics = MetricsWriter(run_dir.rank_metrics(rank))

    def info(self, text: str) -> None:
        """Log a sentence."""
        self._write(format_log(text, "INFO", datetime.now(), self._rank))

    def warning(self, text: str) -> None:
        """Log what goes wrong beside the training."""
        self._write(format_log(text, "WARNING", datetime.now(), self._rank))

    def error(self, text: str) -> None:
        """Log what went wrong; each line of `text` becomes one of the log."""
        for line in text.splitlines():
            self._write(format_log(line, "ERROR", datetime.now(), self._rank))

    def step(self, step: int, total_steps: int, values: dict[str, float]) -> None:
        """Log a step line of the values that belong there, and all with full precision as a metrics record."""
        now = datetime.now()
        shown = {key: values[key] for key in STEP_KEYS}
        self._write(format_step(StepLine(step, total_steps, shown, now, rank=self._rank)))
        self._metrics.write({"step": step, "total_steps": total_steps, "timestamp": now.timestamp(), **values})

    def resumed(self, step: int) -> None:
        """Mark in the metrics that what follows goes on after `step`: later steps above this line do not count."""
        self._metrics.write({"kind": "resume", "after_step": step, "timestamp": datetime.now().timestamp()})

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._metrics.close()

    def _write(self, line: str) -> None:
        # One write call a line: the ranks share a terminal, and halves of lines would mix there.
        for stream in (self._file, sys.stderr):
            stream.write(line + "\n")
            stream.flush()

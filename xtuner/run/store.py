"""What is known of a run: its series, ranks, logs, exports and evaluations, kept up from the events of a feed."""

import os
import re
from array import array
from collections import deque
from collections.abc import Iterable
from math import inf, isnan
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.run.derived import Band, low_median_high
from xtuner.run.discover import RunFiles
from xtuner.run.events import Event, Found, Gap, Read, Said, Steps
from xtuner.run.logindex import LogIndex
from xtuner.run.metrics import parse_records
from xtuner.run.rank_steps import RankSteps
from xtuner.run.series import Series, median_of
from xtuner.run.status import Status, read_status
from xtuner.run.supervision import Supervision, judge_launch, read_supervision
from xtuner.run.tail import BlockTail

LOSS_KEYS = ("reduced_llm_loss", "total_loss", "loss", "llm_loss", "local_loss")
NUM_RECENT = 50
_NUM_LINES_KEPT = 2000
_NUM_REWINDS_KEPT = 1000
_LOOK_AGAIN_S = 5.0
_ARTIFACT = re.compile(r"(hf|adapter|step)-([0-9]+)")
_LOUD = ("WARNING", "ERROR", "CRITICAL")


class Rewind(NamedTuple):
    """A rank said a step again: the run went back to a checkpoint."""

    rank: int
    from_step: float
    to_step: float


class Artifact(NamedTuple):
    """What a run left on disk after a step: an export, an adapter or a checkpoint."""

    path: Path
    kind: str
    step: int
    num_bytes: int
    modified_at: float


class RunStore:
    """One run, as far as it has been read.

    Attributes:
        files: where it is read from.
        ranks: what each rank said.
        total_steps: the last step there will be; 0 while unknown.
        epoch: the newest one named in a log.
        rewinds: when the run went back to a checkpoint.
        recent: the newest lines that are no step lines, in the order they were read.
        log_indices: where the lines of each text log are.
        gaps: files that were truncated or replaced.
        status: `status.json`, None where there is none.
        launch: `supervisor.json`, None where there is none.
        state: its state as a reader should show it, see `judge_launch`.
        evaluations: the records of `metrics/eval.jsonl`, by step.
        artifacts: exports and checkpoints, by step.
        revision: grows with each change.
    """

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.ranks: dict[int, RankSteps] = {}
        self.total_steps = 0
        self.epoch: int | None = None
        self.rewinds: deque[Rewind] = deque(maxlen=_NUM_REWINDS_KEPT)
        self.recent: deque[Said] = deque(maxlen=_NUM_LINES_KEPT)
        self._loud_past: deque[Said] = deque(maxlen=_NUM_LINES_KEPT)
        self._loud_new: deque[Said] = deque(maxlen=_NUM_LINES_KEPT)
        self.log_indices: dict[Path, LogIndex] = {}
        self.gaps: deque[Gap] = deque(maxlen=_NUM_LINES_KEPT)
        self.status: Status | None = None
        self.launch: Supervision | None = None
        self.state = "unknown"
        self.evaluations: dict[int, dict[str, Any]] = {}
        self.artifacts: list[Artifact] = []
        self.revision = 0
        self._looked_at = -inf
        self._bands: dict[str, tuple[int, Band]] = {}
        self._eval_tail = BlockTail(files.run_dir.eval_metrics) if files.run_dir else None

    def apply(self, events: Iterable[Event], now: float) -> None:
        """Take in what a feed has read; `now`, in seconds since the epoch, is when."""
        for event in events:
            self.revision += 1
            if isinstance(event, Steps):
                self._add_steps(event, now)
            elif isinstance(event, Said):
                self._add_line(event)
            elif isinstance(event, Read):
                self.log_indices.setdefault(event.path, LogIndex()).add(event.parts)
            elif isinstance(event, Found):
                self.files = event.files
            else:
                self.gaps.append(event)
                self.log_indices.pop(event.path, None)

    def refresh(self, now: float) -> None:
        """Look at what is no log: status, evaluations, exports, checkpoints. `now` is seconds since the epoch."""
        run_dir = self.files.run_dir
        if run_dir is None:
            return
        # In this order: a launch that has ended leaves its last status.
        self.launch = read_supervision(run_dir)
        self.status = read_status(run_dir)
        self.state = judge_launch(self.launch, self.status, now)
        self._read_evaluations()
        if not 0 <= now - self._looked_at < _LOOK_AGAIN_S:
            self._looked_at = now
            self.artifacts = sorted(_find_artifacts(run_dir.path), key=lambda artifact: artifact.step)
        self.revision += 1

    @property
    def loud(self) -> list[Said]:
        """Warnings and errors, the past ones first, and lines without a head, such as those of tracebacks."""
        return [*self._loud_past, *self._loud_new]

    @property
    def first_rank(self) -> RankSteps | None:
        """The lowest rank that said a step."""
        return self.ranks[min(self.ranks)] if self.ranks else None

    @property
    def step(self) -> int:
        """The newest step of any rank."""
        return int(max((rank.last_step for rank in self.ranks.values() if rank.last_step is not None), default=0))

    @property
    def loss_key(self) -> str | None:
        """The key of the loss that is minimised, as this run's dialect names it."""
        known = self.first_rank.series if self.first_rank else {}
        return next((key for key in LOSS_KEYS if key in known), None)

    def keys(self) -> list[str]:
        """All keys, in the order of the lines."""
        return list(dict.fromkeys(key for rank in self.ranks.values() for key in rank.series))

    def series(self, rank: int, key: str) -> Series | None:
        """The values of one rank."""
        return self.ranks[rank].series.get(key) if rank in self.ranks else None

    def band(self, key: str) -> Band:
        """Minimum, median and maximum over the ranks; ranks that join later are in it."""
        ranks = [rank.series[key] for rank in self.ranks.values() if key in rank.series]
        known = self._bands.get(key)
        if known is None or known[0] != len(ranks):
            known = self._bands[key] = (len(ranks), Band(ranks))
        return known[1]

    def recent_medians(self, key: str, num_steps: int) -> "array[float]":
        """The medians over the ranks in the newest steps; of all steps, the band has them."""
        ranks = [rank.series[key].samples(-num_steps) for rank in self.ranks.values() if key in rank.series]
        return array("d", low_median_high(ranks)[2][-num_steps:])

    @property
    def lagging_bands(self) -> list[Band]:
        """Bands for which much has still to be taken in."""
        return [band for _, band in self._bands.values() if not band.is_near]

    def latest(self, key: str) -> dict[int, float]:
        """The newest value of each rank that has one."""
        return {
            number: series.samples(-1)[1][0]
            for number, rank in sorted(self.ranks.items())
            if (series := rank.series.get(key)) and len(series)
        }

    def step_time_s(self) -> float | None:
        """The median of the first rank's last fifty steps and their waits for data: one slow one does not move it."""
        rank = self.first_rank
        if rank is None or "time" not in rank.series:
            return None
        times = rank.series["time"].samples(-NUM_RECENT)[1]
        waits = rank.series["data_time"].samples(-NUM_RECENT)[1] if "data_time" in rank.series else []
        both = map(sum, zip(times, waits, strict=True)) if len(waits) == len(times) else times
        median_s = median_of(both)
        return None if isnan(median_s) else median_s

    def eta_s(self) -> float | None:
        """Seconds for the steps that are left, at the pace of the last fifty."""
        step_time_s = self.step_time_s()
        if step_time_s is None or not self.total_steps:
            return None
        return step_time_s * max(0, self.total_steps - self.step)

    def num_tokens(self) -> float | None:
        """Tokens of all ranks in all steps that have been read."""
        counts = [rank.series["text_tokens"] for rank in self.ranks.values() if "text_tokens" in rank.series]
        return sum(series.total for series in counts) if counts else None

    def _add_steps(self, event: Steps, now: float) -> None:
        block = event.block
        rank = self.ranks.setdefault(block.rank, RankSteps())
        if event.is_history:
            rewinds = rank.add_past(block, is_precise=event.is_precise)
            self.rewinds.extend(Rewind(block.rank, *rewind) for rewind in rewinds)
            return
        self.total_steps = block.total_steps or self.total_steps
        self.epoch = block.epoch if block.epoch is not None else self.epoch
        # A run may have been silent for hours when someone comes to look.
        heard_at = now if event.written_at is None else min(now, event.written_at)
        rewinds = rank.add(block, heard_at, is_precise=event.is_precise)
        self.rewinds.extend(Rewind(block.rank, *rewind) for rewind in rewinds)

    def _add_line(self, line: Said) -> None:
        if not line.is_history:
            self.recent.append(line)
        if isinstance(line.content, str) or line.content.level in _LOUD:
            (self._loud_past if line.is_history else self._loud_new).append(line)

    def _read_evaluations(self) -> None:
        if self._eval_tail is None:
            return
        num_restarts = self._eval_tail.num_restarts
        try:
            blocks = self._eval_tail.read()
        except OSError:
            return
        if self._eval_tail.num_restarts > num_restarts:
            self.evaluations.clear()
        for record in (record for block in blocks for record in parse_records(block.data)):
            if isinstance(record.get("step"), int):
                self.evaluations[record["step"]] = record


def _find_artifacts(path: Path) -> Iterable[Artifact]:
    for directory in (path, path / "checkpoints"):
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            match = _ARTIFACT.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                yield _describe_artifact(Path(entry.path), match[1], int(match[2]))


def _describe_artifact(path: Path, kind: str, step: int) -> Artifact:
    num_bytes, modified_at = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name), follow_symlinks=False)
            except OSError:
                continue
            num_bytes += status.st_size
            modified_at = max(modified_at, status.st_mtime)
    return Artifact(path, {"step": "checkpoint", "hf": "export"}.get(kind, kind), step, num_bytes, modified_at)

"""One run while it is watched: its store, kept up from the reader's events, and what is wrong with it."""

import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.run.atomic import read_object
from xtuner.run.discover import RunFiles
from xtuner.run.facts import RunFacts, read_facts
from xtuner.run.feed import Feed
from xtuner.run.health import Alert, Health
from xtuner.run.series import Series
from xtuner.run.status import ALIVE_STATES, END_STATES
from xtuner.run.store import RunStore
from xtuner.run.supervision import elapsed_s
from xtuner.tui.monitor.reader import Reader

_APPLY_S = 0.015
_LOOK_S = 2.0
_NUM_PAST_ALERTS = 50
NUM_PROCESSES = min(4, os.cpu_count() or 1)  # that read a long past


class PastAlert(NamedTuple):
    """An alert that is over, and since when."""

    alert: Alert
    until: float


class Session:
    """What the screen shows of one run; of the screen's thread, but for the reader's own.

    Attributes:
        files: the run.
        store: what is known of it.
        record: `run.json`; empty where there is none.
        alerts: what is wrong now, the worst first.
        past_alerts: what was, the newest last.
        evaluations: the evaluation loss by step.
        has_past: whether all that was there in the beginning has been taken in once.
        is_gone: whether the run's directory or file is no longer there; what was read of it is.
        revision: grows when there is something new to show.
    """

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.store = RunStore(files)
        self.record: Mapping[str, Any] = {}
        self.alerts: list[Alert] = []
        self.past_alerts: deque[PastAlert] = deque(maxlen=_NUM_PAST_ALERTS)
        self.evaluations = Series()
        self.has_past = False
        self.is_gone = False
        self.revision = 0
        self._health = Health(self.store)
        self._feed = Feed(files, num_processes=NUM_PROCESSES)
        self._reader = Reader(self._feed)
        self._has_lagging_bands = False
        self._looked_at = float("-inf")
        self._seen: tuple[object, ...] = ()

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def stop(self) -> None:
        """Read no further."""
        self._reader.stop()

    def hold(self) -> None:
        """Read a little later: there was a key."""
        self._reader.hold()

    @property
    def facts(self) -> RunFacts:
        """What is known of its model and machine."""
        return self._health.facts

    @property
    def is_behind(self) -> bool:
        """Whether there is more to take in at once."""
        return self._reader.is_behind or self._has_lagging_bands

    @property
    def files_now(self) -> RunFiles:
        """The files as they were last looked at."""
        return self.store.files

    @property
    def unreadable(self) -> dict[Path, str]:
        """Files that cannot be read now, and why."""
        return dict(self._feed.unreadable)

    @property
    def state(self) -> str:
        """The state in one word, as the screen shows it.

        A run that says it is alive and says no steps is stalled. One without a status, as an older XTuner writes it,
        is judged by its steps.
        """
        store = self.store
        if self.is_gone:
            return "lost"
        if store.state in END_STATES or store.state == "lost":
            return store.state
        if any(alert.kind == "stalled" for alert in self.alerts):
            return "stalled"
        if store.state in ALIVE_STATES:
            return store.state
        if not store.ranks:
            return "waiting"
        return "finished" if store.total_steps and store.step >= store.total_steps else "running"

    @property
    def is_alive(self) -> bool:
        """Whether there may be more to come."""
        return self.state not in (*END_STATES, "lost")

    def elapsed_s(self, now: float) -> float | None:
        """Seconds since the start, until the end where there was one; by the steps' own times where nobody says it."""
        store = self.store
        known_s = elapsed_s(store.launch, store.status, store.state, now)
        if known_s is not None:
            return known_s
        first = store.first_rank
        times = first.series.get("timestamp") if first else None
        if times is None or not len(times):
            return None
        begin, end = times.samples(0, 1)[1][0], times.samples(-1)[1][0]
        return max(0.0, end - begin)

    def tick(self, now: float) -> None:
        """Take in what was read since, for some milliseconds, and look after the run now and then.

        Args:
            now: seconds since the epoch.

        Raises:
            Exception: the reader met a bug of ours.
        """
        if self._reader.error is not None:
            raise self._reader.error
        deadline = time.monotonic() + _APPLY_S
        for events in self._reader.drain(_APPLY_S):
            self.store.apply(events, now)
            self.revision += 1
        if not self.has_past and not self._reader.is_behind:
            self.has_past = True
            self.revision += 1
        if self.has_past:
            self._advance_bands(deadline)
        if not 0 <= now - self._looked_at < _LOOK_S and self._reader.has_newest:
            self._looked_at = now
            self.look(now)

    def _advance_bands(self, deadline: float) -> None:
        lagging = self.store.lagging_bands
        while lagging and time.monotonic() < deadline:
            lagging[0].advance()
            if lagging[0].is_near:
                lagging.pop(0)
                self.revision += 1
        self._has_lagging_bands = bool(lagging)

    def look(self, now: float) -> None:
        """Look after what is no log, and judge the run, as it is `now` in seconds since the epoch."""
        store = self.store
        self.is_gone = not os.path.exists(self.files.path)
        if not self.is_gone:  # else what was known last stays
            store.refresh(now)
            self._take_record()
        self._take_alerts(self._health.check(now), now)
        for step in sorted(store.evaluations):
            self._add_evaluation(step, store.evaluations[step])
        seen = (store.status, self.state, self.alerts, list(store.artifacts), len(self.evaluations), self.is_gone)
        if seen != self._seen:
            self._seen = seen
            self.revision += 1

    def _take_record(self) -> None:
        """What a run says of itself when its ranks have met: a dashboard may have been opened before."""
        if self.files.run_dir is None:
            return
        record = read_object(self.files.run_dir.run_json)
        if record and record != self.record:
            self.record = record
            self._health.facts = read_facts(self.files.run_dir)

    def _take_alerts(self, alerts: list[Alert], now: float) -> None:
        current = {(alert.kind, alert.rank) for alert in alerts}
        over = [alert for alert in self.alerts if (alert.kind, alert.rank) not in current]
        self.past_alerts.extend(PastAlert(alert, now) for alert in over)
        self.alerts = alerts

    def _add_evaluation(self, step: int, record: Mapping[str, Any]) -> None:
        bounds = self.evaluations.x_range()
        loss = next((record[key] for key in ("eval_loss", "loss") if key in record), None)
        if isinstance(loss, int | float) and (bounds is None or step > bounds[1]):
            self.evaluations.append(step, float(loss))


def start_session(files: RunFiles) -> Session:
    """A session that reads."""
    session = Session(files)
    session.start()
    return session

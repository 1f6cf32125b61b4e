"""What is wrong with a run, with the evidence and what to do about it."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xtuner.run.facts import RunFacts, read_facts
from xtuner.run.failure import RankFailure, failures_of, first_failure, read_killed
from xtuner.run.logline import LogLine
from xtuner.run.status import ALIVE_STATES
from xtuner.run.store import RunStore
from xtuner.run.supervision import Supervision
from xtuner.run.trends import (
    NUM_COMPARED,
    NUM_RECENT,
    find_creep,
    find_drop,
    find_spike,
    find_stragglers,
    num_steps_until_limit,
)

CRITICAL, WARNING = "critical", "warning"
_STALL_S = 60.0
_STALL_STEPS = 5
_PAUSE_S = 1800.0
_LOOK_AGAIN_S = 5.0
_PAUSES = ("evaluating", "exporting", "starting", "restarting")
# How the lines before a legitimate pause begin, where no status tells.
_PAUSE_WORDS = ("evaluat", "export", "saving", "checkpoint", "reply at step")
_DATA_BOUND_SHARE = 0.3
_MEMORY_SHARE = 0.97
_CREEP_HORIZON_STEPS = 10_000
_DISK_FREE_BYTES = 5 * 2**30
_LN_VOCAB_TOLERANCE = 0.1
_MAX_EVIDENCE_CHARS = 300


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong.

    Attributes:
        kind: what it is, the same for as long as it lasts: `loss-nan`, `stalled`, `straggler` ...
        level: `critical` when the run is lost or worthless, else `warning`.
        text: what is wrong, in one sentence.
        evidence: the line or the numbers that show it.
        hint: what to do.
        rank: whose it is; None for that of all.
        step: where it was seen.
        since: when it was first seen, by the clock of `Health`.
    """

    kind: str
    level: str
    text: str
    evidence: str
    hint: str
    rank: int | None = None
    step: int | None = None
    since: float = 0.0

    @property
    def is_critical(self) -> bool:
        """Whether the run is lost or worthless."""
        return self.level == CRITICAL


class Health:
    """Looks at a store and says what is wrong; each thing once, for as long as it is so.

    Args:
        store: the run.
        facts: see `RunFacts`; `read_facts` finds them. They may be set anew: a run says them when it begins.
        free_bytes: how much room is left where a path lies.
    """

    def __init__(
        self,
        store: RunStore,
        facts: RunFacts | None = None,
        *,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._store = store
        self.facts = facts or read_facts(store.files.run_dir)
        self._free_bytes = free_bytes
        self._failure: RankFailure | None = None
        self._looked_at, self._looked_in = -math.inf, ""
        self._since: dict[tuple[str, int | None], float] = {}

    def check(self, now: float) -> list[Alert]:
        """What is wrong at `now`, seconds since the epoch, as `RunStore.apply` was given; the worst first.

        A thing that was wrong at the last call keeps its `since`.
        """
        found = {(alert.kind, alert.rank): alert for alert in self._find(now)}
        self._since = {key: self._since.get(key, now) for key in found}
        alerts = [replace(alert, since=self._since[key]) for key, alert in found.items()]
        return sorted(alerts, key=lambda alert: (alert.level != CRITICAL, alert.since))

    def _find(self, now: float) -> Iterator[Alert]:
        yield from self._find_end(now)
        if self._store.ranks:
            yield from self._find_loss()
            yield from self._find_memory()
            if self._is_alive:
                yield from self._find_silence(now)
                yield from self._find_slowness()
        if self._is_alive:
            yield from self._find_disk()

    @property
    def _is_alive(self) -> bool:
        """Whether there is more to come: without a status, until the last step."""
        store = self._store
        if store.state == "unknown":
            return not store.total_steps or store.step < store.total_steps
        return store.state in ALIVE_STATES

    def _find_end(self, now: float) -> Iterator[Alert]:
        store = self._store
        if not 0 <= now - self._looked_at < _LOOK_AGAIN_S or store.state != self._looked_in:
            self._looked_at, self._looked_in = now, store.state
            self._failure = self._first_failure()
        if store.state == "finished":
            return
        launch, is_restarting = store.launch, store.state == "restarting"
        failed = self._failed() or (self._failed_silently() if is_restarting else None)
        if failed and launch and (is_restarting or launch.may_restart):
            yield _restarting(failed, launch, has_begun=launch.is_newer_than(store.status))
        elif failed:
            yield failed
        elif store.state == "lost":
            age = "no heartbeat for a minute, or its process is gone"
            hint = "start it again; if no log says why it ended, ask the kernel: dmesg | grep -i 'killed process'"
            yield Alert("lost", CRITICAL, f"the run is lost since step {store.step}", age, hint, step=store.step)

    def _first_failure(self) -> RankFailure | None:
        """The first rank that failed in the newest attempt: what failed before, torchrun has started again."""
        run_dir, attempts = self._store.files.run_dir, self._store.files.attempts
        first = first_failure(failures_of(attempts[-1] if attempts else None, run_dir))
        if run_dir and (first is None or first.is_consequence):
            return read_killed(run_dir) or first
        return first

    def _failed(self) -> Alert | None:
        store, failure = self._store, self._failure
        where = f"what the ranks printed is in {store.files.path / 'logs'}"
        if failure and failure.signal_name:
            evidence = _last_loud(store) or f"last step {store.step}"
            return Alert(
                "failed", CRITICAL, failure.sentence, evidence, failure.hint or where, failure.rank, store.step
            )
        if failure and not (failure.is_consequence and store.state == "stopped"):
            hint = failure.hint or "fix what the last line of the traceback says, and start again"
            evidence = failure.traceback_end
            return Alert("failed", CRITICAL, failure.sentence, evidence, hint, failure.rank, failure.step)
        if store.state == "failed":
            message = next((told.message for told in (store.status, store.launch) if told and told.message), "")
            text = f"the run failed at step {store.step}"
            return Alert("failed", CRITICAL, text, message or _last_loud(store), where)
        return None

    def _failed_silently(self) -> Alert:
        """An attempt that failed and of which nothing is left here but what its launch may have told of it."""
        store, launch = self._store, self._store.launch
        if launch and launch.is_newer_than(store.status):
            text, _, evidence = launch.restarted_after.partition("\n")
        else:
            text, evidence = f"the ranks failed at step {store.step}", store.status.message if store.status else ""
        where = f"what the ranks printed is in {store.files.path / 'logs'}"
        return Alert("failed", CRITICAL, text, evidence or _last_loud(store), where, step=store.step)

    def _find_loss(self) -> Iterator[Alert]:
        store, key = self._store, self._store.loss_key
        if key is None:
            return
        skipped = self._recently_skipped()
        if skipped:
            yield self._skipped(skipped[-1])
        for number, rank in sorted(store.ranks.items()):
            series = rank.series.get(key)
            bad = series.last_bad() if series else None
            if series and bad and bad[0] not in skipped and bad[0] >= series.samples(-NUM_RECENT)[0][0]:
                text = f"{key} of rank {number} is {bad[1]} in step {bad[0]:.0f}"
                hint = "stop the run; try a lower --lr, look at the rows of this step, train in float32"
                yield Alert("loss-nan", CRITICAL, text, _quote(key, bad), hint, number, int(bad[0]))
                return  # one rank is enough: a sum over all makes it everybody's
        losses = store.ranks[min(store.ranks)].series.get(key)
        spike = find_spike(losses) if losses else None
        if spike:
            text = f"{key} jumped to {spike.value:.3f} in step {spike.step:.0f}, the mean before was {spike.mean:.3f}"
            evidence = f"{_quote(key, (spike.step, spike.value))}; robust z {spike.z:.1f}"
            hint = "if it does not come down again, go back to the last checkpoint with a lower --lr"
            yield Alert("loss-spike", WARNING, text, evidence, hint, step=int(spike.step))
        first = losses.samples(0, 1) if losses else None
        if first and first[0] and first[0][0] <= 1:
            yield from self._find_random_weights(key, first[1][0])

    def _recently_skipped(self) -> list[float]:
        """The newest steps that updated nothing, which `--on-nonfinite skip` permits; their NaN is no news."""
        series = self._store.series(min(self._store.ranks), "skipped")
        steps = series.samples(-NUM_RECENT)[0] if series else []
        return [step for step in steps if step > self._store.step - NUM_RECENT]

    def _skipped(self, step: float) -> Alert:
        text = f"step {step:.0f} was skipped: its loss or gradient was not finite"
        said = (line.content for line in reversed(self._store.loud) if isinstance(line.content, LogLine))
        evidence = next((line.text for line in said if line.text.startswith(f"step {step:.0f} is skipped")), "")
        hint = "the log names its rows; with more such steps, lower --lr or look at the data"
        return Alert("skipped", WARNING, text, evidence[:_MAX_EVIDENCE_CHARS], hint, step=int(step))

    def _find_random_weights(self, key: str, loss: float) -> Iterator[Alert]:
        vocab_size = self.facts.vocab_size
        if not self.facts.has_weights or not vocab_size or vocab_size < 2:
            return
        expected = math.log(vocab_size)
        if abs(loss - expected) < _LN_VOCAB_TOLERANCE * expected:
            text = f"the first loss, {loss:.2f}, is that of a random model, though weights were loaded"
            evidence = f"step 1: {key} {loss:.3f}; ln({vocab_size}) = {expected:.3f}"
            hint = "look at the weights with xtuner check-model, and at the data with xtuner preview"
            yield Alert("random-weights", WARNING, text, evidence, hint, step=1)

    def _find_silence(self, now: float) -> Iterator[Alert]:
        store = self._store
        patience_s = max(_STALL_STEPS * (store.step_time_s() or 0.0), _STALL_S)
        if store.state in _PAUSES or self._is_in_pause():
            patience_s = max(patience_s, _PAUSE_S)
        heard = {number: rank.last_heard for number, rank in store.ranks.items() if rank.last_heard is not None}
        newest = max(heard.values(), default=now)
        newest_step = store.step
        behind = sorted(number for number, rank in store.ranks.items() if (rank.last_step or 0) < newest_step)
        if now - newest > patience_s:
            who = f"; behind: rank {_join(behind)}" if behind else ""
            text = f"stalled: no step from any rank for {now - newest:.0f} s"
            evidence = f"last step {store.step}{who}; a step takes {store.step_time_s() or 0:.1f} s"
            hint = "look at what a rank does: py-spy dump --pid PID; a rank that hangs holds all others in a collective"
            yield Alert("stalled", CRITICAL, text, evidence, hint, behind[0] if len(behind) == 1 else None, store.step)
            return
        for number in behind:
            rank = store.ranks[number]
            if number in heard and now - heard[number] > patience_s:
                text = f"rank {number} is silent for {now - heard[number]:.0f} s"
                evidence = f"its last step is {rank.last_step or 0:.0f}, the others are at {store.step}"
                hint = f"see whether its process lives; its log is {store.files.logs.get(number, 'not there')}"
                yield Alert("silent-rank", WARNING, text, evidence, hint, number, int(rank.last_step or 0))

    def _is_in_pause(self) -> bool:
        """Whether the newest line of the first rank, after its last step, says that the run does something else."""
        store = self._store
        last_time = store.ranks[min(store.ranks)].last_time or 0.0
        for line in reversed(store.recent):
            if isinstance(line.content, LogLine):
                is_after = line.content.time.timestamp() >= math.floor(last_time)
                return is_after and line.content.text.lower().startswith(_PAUSE_WORDS)
        return False

    def _find_slowness(self) -> Iterator[Alert]:
        store = self._store
        for straggler in find_stragglers({n: rank.series for n, rank in store.ranks.items()}):
            hint = (
                "its storage or its data workers are slow: compare machines with iostat and top"
                if straggler.key == "data_time"
                else "compare clocks, temperature and other processes of its device: nvidia-smi -q -d PERFORMANCE"
            )
            evidence = f"{straggler.num_slow} of the last {straggler.num_looked_at} steps; robust z {straggler.z:.1f}"
            yield Alert("straggler", WARNING, straggler.sentence, evidence, hint, straggler.rank, store.step)
        yield from self._find_data_bound()
        drop = find_drop(store.recent_medians("tgs", NUM_COMPARED))
        if drop:
            text = f"throughput fell to {drop[1]:.0f} tokens/s a rank, it was {drop[0]:.0f}"
            evidence = f"median of the last steps against that of the run: {100 * drop[1] / drop[0]:.0f} %"
            hint = "look for other processes on the machine, for throttled devices, and for a full disk"
            yield Alert("throughput-drop", WARNING, text, evidence, hint, step=store.step)

    def _find_data_bound(self) -> Iterator[Alert]:
        store = self._store
        rank = store.ranks[min(store.ranks)]
        waits, times = rank.series.get("data_time"), rank.series.get("time")
        if not waits or not times or len(waits) < NUM_RECENT:
            return
        waited, computed = (_mean(series.samples(-NUM_RECENT)[1]) for series in (waits, times))
        share = waited / (waited + computed) if waited + computed > 0 else 0.0
        if share > _DATA_BOUND_SHARE:
            text = f"data-bound: {100 * share:.0f} % of a step is waiting for data"
            evidence = f"data_time {waited:.3f} s, time {computed:.3f} s, means of the last {NUM_RECENT} steps"
            hint = "put data and cache on a faster disk, or give the ranks more CPU cores"
            yield Alert("data-bound", WARNING, text, evidence, hint, step=store.step)

    def _find_memory(self) -> Iterator[Alert]:
        limit_gib = self.facts.memory_limit_gib
        if not limit_gib or not self._is_alive:
            return
        for number, rank in sorted(self._store.ranks.items()):
            series = rank.series.get("reserved_memory") or rank.series.get("max_memory")
            if not series:
                continue
            now_gib = series.samples(-1)[1][0]
            creep_gib = find_creep(series)
            steps_left = num_steps_until_limit(now_gib, creep_gib, limit_gib)
            is_close = now_gib > _MEMORY_SHARE * limit_gib
            if is_close or steps_left < _CREEP_HORIZON_STEPS:
                text = f"memory of rank {number} {'is near' if is_close else 'creeps to'} the limit of its device"
                evidence = f"{now_gib:.1f} of {limit_gib:.1f} GiB, {100 * creep_gib:+.2f} GiB in 100 steps"
                hint = "use shorter packs (--pack-max-length), --fsdp-config.cpu-offload or more ranks"
                yield Alert("memory", WARNING, text, evidence, hint, number, self._store.step)
                return

    def _find_disk(self) -> Iterator[Alert]:
        path = self._store.files.path
        try:
            free = self._free_bytes(path)
        except OSError:
            return
        wanted = max([_DISK_FREE_BYTES, *(2 * artifact.num_bytes for artifact in self._store.artifacts[-3:])])
        if free < wanted:
            text = f"the disk of {path} is nearly full"
            evidence = f"{free / 2**30:.1f} GiB are free; exports and checkpoints need {wanted / 2**30:.1f} GiB"
            yield Alert("disk", WARNING, text, evidence, f"make room: du -sh {path.parent}/*", step=self._store.step)


def _restarting(failed: Alert, launch: Supervision, *, has_begun: bool) -> Alert:
    """The alert about a failure after which torchrun starts the ranks again, or has just done so."""
    number = launch.num_restarts + (0 if has_begun else 1)
    text = f"{failed.text}; the ranks are started again, restart {number} of {launch.max_restarts}"
    return replace(failed, kind="restarting", level=WARNING, text=text)


def _last_loud(store: RunStore) -> str:
    for line in reversed(store.loud):
        text = line.text.strip()
        if text:
            return text[:_MAX_EVIDENCE_CHARS]
    return ""


def _quote(key: str, sample: tuple[float, float]) -> str:
    return f"step {sample[0]:.0f}: {key} {sample[1]:.4g}"


def _join(numbers: Iterable[int]) -> str:
    shown = list(map(str, numbers))
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _mean(values: Iterable[float]) -> float:
    finite = list(filter(math.isfinite, values))
    return sum(finite) / len(finite) if finite else 0.0

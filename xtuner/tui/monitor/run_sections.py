"""How a run was made, what it has left on disk, and what happened to it: named lines of text."""

import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from xtuner.byte_size import shown_size
from xtuner.run.figures import duration
from xtuner.tui.monitor.plots import restarts
from xtuner.tui.monitor.session import Session
from xtuner.tui.widgets.axis import format_value

_NUM_EVENTS = 200

Sections = dict[str, list[tuple[str, str]]]


def sections_of(
    session: Session, config: Mapping[str, object], checkpoint_faults: Mapping[int, str | None], now: float
) -> Sections:
    """All of it, by title.

    Args:
        session: the run.
        config: its options.
        checkpoint_faults: why the checkpoint after a step cannot be used; None for a whole one.
        now: seconds since the epoch.
    """
    return {
        "run": list(_facts(session, now)),
        "checkpoints and exports": list(_artifacts(session, checkpoint_faults)),
        "events": list(_events(session)),
        "options": [(key, say(value)) for key, value in flatten(config)],
    }


def say(value: object) -> str:
    """A value of a JSON file as text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def flatten(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """Nested options by their names with dots."""
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def _facts(session: Session, now: float) -> Iterator[tuple[str, str]]:
    record, status = session.record, session.store.status
    yield "path", str(session.files.path)
    if status is not None:
        message = f": {status.message}" if status.message else ""
        yield "state", f"{session.state}{message}"
        yield "process", f"{status.pid} on {status.host}"
    for name, key in (("model", "model"), ("data", "dataset"), ("started", "created"), ("directory", "cwd")):
        value = record.get(key)
        if value is not None:
            yield name, ", ".join(map(say, value)) if isinstance(value, list) else say(value)
    command = record.get("command")
    if isinstance(command, list):
        yield "command", shlex.join(map(str, command))
    git = record.get("git")
    if isinstance(git, dict):
        yield "git", f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}"
    versions = record.get("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    step_time_s = session.store.step_time_s()
    if step_time_s is not None:
        yield "a step takes", f"{format_value(step_time_s)} s"
    if not session.is_alive:
        yield "took", duration(session.elapsed_s(now))
    for path, reason in sorted(session.unreadable.items()):
        yield "unreadable", f"{path}: {reason}"


def _artifacts(session: Session, faults: Mapping[int, str | None]) -> Iterator[tuple[str, str]]:
    for artifact in reversed(session.store.artifacts):
        fault = faults.get(artifact.step) if artifact.kind == "checkpoint" else None
        when = f"{datetime.fromtimestamp(artifact.modified_at):%Y-%m-%d %H:%M:%S}"
        state = f"cannot be used: {fault}" if fault else "whole" if artifact.kind == "checkpoint" else ""
        parts = [artifact.kind, shown_size(artifact.num_bytes), when, state]
        yield f"{artifact.path.name}", "  ".join(part for part in parts if part)


def _events(session: Session) -> Iterator[tuple[str, str]]:
    """The newest first."""
    found: list[tuple[float, str]] = [(step, f"resumed after step {step:,.0f}") for step in restarts(session)]
    for evaluated, record in session.store.evaluations.items():
        best = ", the best so far" if record.get("is_best") else ""
        loss = _number(record, "loss")
        found.append((evaluated, f"evaluation: loss {loss}, token accuracy {_number(record, 'token_accuracy')}{best}"))
    for gap in session.store.gaps:
        found.append((session.store.step, f"{gap.path.name} was truncated or replaced: it is read from its beginning"))
    for step, text in sorted(found, key=lambda event: event[0], reverse=True)[:_NUM_EVENTS]:
        yield f"step {step:,.0f}", text


def _number(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return format_value(value) if isinstance(value, int | float) else "-"

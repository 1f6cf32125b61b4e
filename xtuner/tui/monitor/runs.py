"""Which runs a path leads to, looked for now and then."""

from pathlib import Path

from xtuner.errors import UsageError, XTunerError
from xtuner.run.discover import RunFiles, discover

_LOOK_S = 5.0
_LOOK_WHILE_NONE_S = 1.0


class RunList:
    """The runs behind `path`, oldest first; those that are gone are no longer among them.

    Raises:
        UsageError, EnvironmentFault: as `discover`, at the first look only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[RunFiles] = discover(path)
        self._looked_at = float("-inf")

    @property
    def newest(self) -> RunFiles | None:
        """The run that was started last."""
        return self.runs[-1] if self.runs else None

    def look(self, now: float) -> bool:
        """Look again if it is time; whether there is a newer run than before."""
        patience_s = _LOOK_S if self.runs else _LOOK_WHILE_NONE_S
        if 0 <= now - self._looked_at < patience_s:
            return False
        self._looked_at = now
        before = self.newest
        try:
            self.runs = discover(self.path)
        except XTunerError:  # a file system that is away for a moment, or a work dir that was removed
            return False
        return self.newest is not None and (before is None or self.newest.path != before.path)


def newest_run(path: Path) -> RunFiles:
    """The newest run behind `path`, for what cannot wait for one.

    Raises:
        UsageError: there is none.
        EnvironmentFault: `path` cannot be read.
    """
    newest = RunList(path).newest
    if newest is None:
        raise UsageError(f"{path} holds no runs yet", hint="start one with xtuner sft, or give another work dir")
    return newest

"""What a process that was killed leaves half done, and the next launch clears away."""

import os
import re
import shutil
import time
from pathlib import Path

from xtuner.run.checkpoints import remove_leftovers
from xtuner.run.failure import forget_failures
from xtuner.run.layout import RunDir
from xtuner.run.trash import empty_trash, list_named

# Of `atomic_write`, `point_link` and `check_work_dir`.
_TEMPORARY_FILE = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp|\.xtuner-probe-[0-9]+-[0-9a-f]{8}")
# A work dir has many writers, also on other machines; a write takes milliseconds.
_ABANDONED_AFTER_S = 600.0
# In a run, the process that supervises it writes this one beside the ranks.
_OF_SUPERVISOR = ".supervisor.json."


def clear_run(run_dir: RunDir) -> None:
    """Clear away what earlier processes of the run left; only the run's one writer may call it.

    An export that was to be replaced by a new one of its step, and was not, gets its name back.
    """
    remove_leftovers(run_dir)
    shutil.rmtree(run_dir.pulses, ignore_errors=True)
    forget_failures(run_dir)
    for old in list_named(run_dir.path, ".old-"):
        final = old.with_name(old.name.removeprefix(".old-"))
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, final)
    for half in list_named(run_dir.path, ".tmp-hf-", ".tmp-adapter-"):
        shutil.rmtree(half, ignore_errors=True)
    empty_trash(run_dir.path)
    for directory in (run_dir.path, run_dir.checkpoints):
        _remove_temporary_files(directory, older_than_s=0.0)


def clear_work_dir(work_dir: Path) -> None:
    """Clear away what was left beside the runs some time ago."""
    _remove_temporary_files(work_dir, older_than_s=_ABANDONED_AFTER_S)


def _remove_temporary_files(directory: Path, *, older_than_s: float) -> None:
    for path in list_named(directory, "."):
        if not _TEMPORARY_FILE.fullmatch(path.name):
            continue
        try:
            wanted_s = _ABANDONED_AFTER_S if path.name.startswith(_OF_SUPERVISOR) else older_than_s
            if time.time() - path.lstat().st_mtime < wanted_s:
                continue
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:
            pass  # somebody else was faster, or may and we may not; it does no harm

"""The user's cache directory, for whoever keeps something between runs."""

import os
from pathlib import Path


def user_cache_dir() -> Path:
    """`xtuner` in the user's cache (XDG base directory specification: relative paths there are to be ignored)."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "xtuner"

"""The user's configuration directory, for what someone writes by hand."""

import os
from pathlib import Path


def user_config_dir() -> Path:
    """`xtuner` in the user's configuration (XDG base directory specification: relative paths are to be ignored)."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".config") / "xtuner"


def keys_file() -> Path:
    """Where keys of one's own stand, see `xtuner.tui.keymap`."""
    return user_config_dir() / "keys.toml"

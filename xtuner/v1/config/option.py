"""What one option declaration carries besides its type and default."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

GROUPS = (
    "Model",
    "Data",
    "Length of the run",
    "Optimization",
    "Sharding and precision",
    "LoRA",
    "Evaluation",
    "Checkpoints",
    "Output",
)


def option(default: Any, help: str, *, group: str, unit: str = "", **limits: Any) -> Any:
    """Declare an option: `help` is one sentence, `group` one of `GROUPS`, `limits` are pydantic's (`gt`, `le` ...)."""
    assert group in GROUPS, f"option group {group!r} is not one of {GROUPS}"
    return Field(default, description=help, json_schema_extra={"group": group, "unit": unit}, **limits)


def expand_home(value: object) -> object:
    """A path with its `~` replaced; what is no path is left to validation."""
    # os.path leaves the `~name` of a user that is not known as it stands; pathlib raises.
    return Path(os.path.expanduser(value)) if isinstance(value, str | Path) and str(value) else value


class Options(BaseModel):
    """Base of the option classes: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

"""What one option declaration carries besides its type and default."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

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


def option(
    default: Any, help: str, *, group: str, unit: str = "", shorthands: dict[str, str] | None = None, **limits: Any
) -> Any:
    """Declare an option.

    Args:
        default: its value where none is given.
        help: one sentence.
        group: one of `GROUPS`.
        unit: of its numbers.
        shorthands: names that stand for one value of it: flags without a value, `true` in a config file.
        limits: pydantic's (`gt`, `le` ...).
    """
    assert group in GROUPS, f"option group {group!r} is not one of {GROUPS}"
    extra: dict[str, Any] = {"group": group, "unit": unit} | ({"shorthands": shorthands} if shorthands else {})
    return Field(default, description=help, json_schema_extra=extra, **limits)


def shorthands_of(field: FieldInfo) -> dict[str, str]:
    """The shorthands of an option by their names, with the values that they stand for."""
    extra = field.json_schema_extra
    return dict(extra.get("shorthands", {})) if isinstance(extra, dict) else {}  # type: ignore[arg-type]


def expand_home(value: object) -> object:
    """A path with its `~` replaced; what is no path is left to validation."""
    # os.path leaves the `~name` of a user that is not known as it stands; pathlib raises.
    return Path(os.path.expanduser(value)) if isinstance(value, str | Path) and str(value) else value


class Options(BaseModel):
    """Base of the option classes: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

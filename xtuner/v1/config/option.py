"""What one option declaration carries besides its type and default."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

GROUPS = ("Model", "Data", "Length of the run", "Optimization", "Sharding and precision", "LoRA", "Output")


def option(default: Any, help: str, *, group: str, unit: str = "", **limits: Any) -> Any:
    """Declare an option: `help` is one sentence, `group` one of `GROUPS`, `limits` are pydantic's (`gt`, `le` ...)."""
    assert group in GROUPS, f"option group {group!r} is not one of {GROUPS}"
    return Field(default, description=help, json_schema_extra={"group": group, "unit": unit}, **limits)


class Options(BaseModel):
    """Base of the option classes: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

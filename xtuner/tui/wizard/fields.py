"""The questions, straight from the declarations of the options: text that a person types, and the value it means."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from xtuner.errors import UsageError
from xtuner.language import _
from xtuner.launch.fit import NPROC
from xtuner.v1.config.files import explain_invalid, resolve_config
from xtuner.v1.config.flags import flag_of, option_fields
from xtuner.v1.config.option import Options, option

Kind = Literal["switch", "choice", "number", "path", "text", "list"]
YES, NO = "yes", "no"
_DEFAULT = re.compile(r"\s*\[default: (.*)\]$")


class LaunchOptions(Options):
    """What is asked besides the training options: how they are launched on this machine."""

    nproc_per_node: int | None = option(
        None,
        "Ranks on this machine.  [default: one an accelerator, else 1]",
        group="Sharding and precision",
        unit="ranks",
        ge=1,
    )


@dataclass(frozen=True)
class Field:
    """One question.

    Attributes:
        key: dotted name of the option.
        group: one of `xtuner.v1.config.option.GROUPS`.
        kind: how it is asked.
        help: what the option does.
        unit: of its value, or nothing.
        default: the value without an answer.
        choices: all that may be answered; empty where anything may.
    """

    key: str
    group: str
    kind: Kind
    help: str
    unit: str
    default: Any
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The flag that does the same."""
        return flag_of(self.key)

    @property
    def about(self) -> str:
        """The help without the default that it may name."""
        return _DEFAULT.sub("", self.help)

    @property
    def default_words(self) -> str:
        """The default as the help names it, where what stands there is not a value; else nothing."""
        named = _DEFAULT.search(self.help)
        return named[1] if named else ""

    def describe(self, default: str = "") -> str:
        """The help in the language that is spoken; `default` is named where the help names none."""
        said = _(self.default_words) or default
        return _(self.about) + (_("  [default: {default}]").format(default=said) if said else "")

    @property
    def holds_paths(self) -> bool:
        """Whether what is typed are paths."""
        return self.kind == "path" or self.key in ("dataset", "eval_dataset", "resume")

    def parse(self, text: str) -> Any:
        """The value that `text` means; the default where it is empty.

        Raises:
            UsageError: in the words of a config file with this value.
        """
        if not text.strip():
            return self.default
        value: Any = resolve_launch(self.key, self._raw(text))
        for name in self.key.split("."):
            value = getattr(value, name)
        return value

    def show(self, value: Any) -> str:
        """The text that `parse` reads as `value`; nothing for None."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return YES if value else NO
        if isinstance(value, tuple) and value and isinstance(value[0], Options):
            return json.dumps([item.model_dump(mode="json") for item in value], ensure_ascii=False)
        if isinstance(value, tuple):
            return shlex.join(map(str, value))
        return repr(value) if isinstance(value, float) else str(value)

    def _raw(self, text: str) -> Any:
        if self.kind == "switch":
            return {YES: True, NO: False}.get(text.strip().lower(), text)
        if self.kind == "list":
            try:
                return shlex.split(text)
            except ValueError as error:  # a quote that is not closed
                raise UsageError(
                    f"{self.flag}: {str(error).lower()} (value: {text!r})", hint="quote paths as in a shell"
                ) from None
        return text if self.kind in ("path", "text") else text.strip()


def resolve_launch(key: str, value: Any) -> Options:
    """The options with `key` set to `value` and everything else left at its default.

    Raises:
        UsageError: see `resolve_config`.
    """
    if key == NPROC:
        try:
            return LaunchOptions.model_validate({key: value})
        except ValidationError as error:
            raise explain_invalid(error, None) from None
    return resolve_config(nested({key: value}))


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """`{"lora.rank": 8}` to `{"lora": {"rank": 8}}`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *above, name = key.split(".")
        level = tree
        for part in above:
            level = level.setdefault(part, {})
        level[name] = value
    return tree


@cache
def all_fields() -> dict[str, Field]:
    """Every question by its key, in the order of the help."""
    return {field.key: field for field in _declared()}


def _declared() -> Iterator[Field]:
    for key, info in LaunchOptions.model_fields.items():
        yield _field(key, info)
    for key, info in option_fields():
        yield _field(key, info)


def _field(key: str, info: FieldInfo) -> Field:
    kinds = [kind for kind in get_args(info.annotation) if kind is not NoneType]
    type_ = kinds[0] if NoneType in get_args(info.annotation) else info.annotation
    extra = info.json_schema_extra
    assert isinstance(extra, dict) and info.description is not None, "option() gives both"
    is_choice = get_origin(type_) is Literal
    return Field(
        key=key,
        group=str(extra["group"]),
        kind=_kind(type_),
        help=info.description,
        unit=str(extra["unit"]),
        default=info.get_default(call_default_factory=True),
        choices=tuple(get_args(type_)) if is_choice else (YES, NO) if type_ is bool else (),
    )


def _kind(type_: Any) -> Kind:
    if get_origin(type_) is Literal:
        return "choice"
    if get_origin(type_) is tuple:
        item = get_args(type_)[0]
        # A list of options inside options is JSON, as its flag is.
        return "text" if isinstance(item, type) and issubclass(item, Options) else "list"
    kinds: dict[Any, Kind] = {bool: "switch", int: "number", float: "number", Path: "path"}
    return kinds.get(type_, "text")

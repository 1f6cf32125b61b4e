"""Options to command-line flags: the one adapter between `TrainerConfig` and Typer."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from xtuner.v1.config.files import resolve_config, spell_out
from xtuner.v1.config.option import Options, shorthands_of
from xtuner.v1.config.trainer import TrainerConfig

_SEPARATOR = "__"  # a parameter name cannot hold the dot of --fsdp-config.cpu-offload


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give `function(config, **own)` a flag for each training option, plus `--config FILE`.

    Flags default to "not given", so that a config file can stand between them and the real defaults; the help
    shows the real ones. The parameters of `function` after `config` stay flags of its own.
    """
    _, *own = inspect.signature(function).parameters.values()

    def command(**given: Any) -> None:
        own_values = {parameter.name: given.pop(parameter.name) for parameter in own}
        config_file = given.pop("config")
        function(resolve_config(_nest(given), config_file), **own_values)

    config_parameter = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(
            None,
            "--config",
            metavar="FILE",
            help="Options from a .yaml, .toml or .json file, or a .py that defines `trainer`; flags win over it.",
        ),
        annotation=Path | None,
    )
    parameters = [config_parameter, *_parameters(TrainerConfig), *_shorthands(TrainerConfig), *own]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = function.__doc__
    return command


def flag_names() -> list[str]:
    """Every training flag, in the order of the help."""
    return [_flag(path) for path, _ in _fields(TrainerConfig)]


def shorthand_names() -> list[str]:
    """Every flag that stands for a value of another one."""
    return [_flag((name,)) for field in TrainerConfig.model_fields.values() for name in shorthands_of(field)]


def flag_of(key: str) -> str:
    """The flag of an option, or of another parameter of a command, by its dotted name."""
    return _flag(tuple(key.split(".")))


def option_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every training option, in the order of the help: its dotted name and its declaration."""
    return ((".".join(path), field) for path, field in _fields(TrainerConfig))


def given_options(parameters: Mapping[str, Any]) -> list[str]:
    """The dotted names of the options that were given among the `parameters` of a command line."""
    given = spell_out({name: value for name, value in parameters.items() if _is_given(value)})
    return [key for key, _ in option_fields() if key.replace(".", _SEPARATOR) in given]


def flags_of(config: TrainerConfig) -> list[str]:
    """The command-line arguments that give `config`: one flag for each value that is not the default."""
    arguments: list[str] = []
    for path, field in _fields(TrainerConfig):
        value: Any = config
        for name in path:
            value = getattr(value, name)
        if value == field.get_default(call_default_factory=True):
            continue
        arguments += _arguments(path, value)
    return arguments


def _arguments(path: tuple[str, ...], value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_flag(path) if value else _negated(path)]
    if isinstance(value, tuple) and isinstance(value[0], Options):
        return [f"{_flag(path)}={json.dumps([item.model_dump(mode='json') for item in value], ensure_ascii=False)}"]
    if isinstance(value, tuple):
        return [f"{_flag(path)}={item}" for item in value]
    # repr keeps every digit of a float
    return [f"{_flag(path)}={value!r}" if isinstance(value, float) else f"{_flag(path)}={value}"]


def _fields(options: type[Options], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in options.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Options):
            yield from _fields(field.annotation, (*above, name))
        else:
            yield (*above, name), field


def _parameters(options: type[Options]) -> Iterator[inspect.Parameter]:
    for path, field in _fields(options):
        default = field.get_default(call_default_factory=True)
        declarations = [f"{_flag(path)}/{_negated(path)}"] if isinstance(default, bool) else [_flag(path)]
        yield inspect.Parameter(
            _SEPARATOR.join(path),
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(
                None,
                *declarations,
                help=_help(field, default),
                show_default=False,
                metavar=_metavar(field),
                rich_help_panel=field.json_schema_extra["group"],  # type: ignore[index,arg-type]
            ),
            annotation=_value_type(field) | None,
        )


def _shorthands(options: type[Options]) -> Iterator[inspect.Parameter]:
    for name, field in options.model_fields.items():
        for shorthand, meaning in shorthands_of(field).items():
            yield inspect.Parameter(
                shorthand,
                inspect.Parameter.KEYWORD_ONLY,
                default=typer.Option(
                    None,
                    _flag((shorthand,)),
                    help=f"The same as {_flag((name,))} {meaning}.",
                    show_default=False,
                    rich_help_panel=field.json_schema_extra["group"],  # type: ignore[index,arg-type]
                ),
                annotation=bool | None,
            )


def _help(field: FieldInfo, default: Any) -> str:
    assert field.description, "option() requires a help text"
    if default is None or default is False or default == ():
        return field.description
    return (
        f"{field.description}  [default: {default:g}]"
        if isinstance(default, float)
        else (f"{field.description}  [default: {default}]")
    )


def _metavar(field: FieldInfo) -> str | None:
    kind = get_args(field.annotation)[0] if get_origin(field.annotation) is tuple else _declared_type(field)
    if get_origin(kind) is Literal:
        return "[" + "|".join(get_args(kind)) + "]"
    unit = field.json_schema_extra["unit"]  # type: ignore[index]
    return str(unit).upper() if unit else {int: "INTEGER", float: "FLOAT"}.get(kind)


def _value_type(field: FieldInfo) -> Any:
    """What the command line parses; the rest is text, and pydantic's to judge, so that each error has one wording."""
    if get_origin(field.annotation) is tuple:
        item = get_args(field.annotation)[0]
        if get_origin(item) is Literal:  # Typer has no lists of choices; pydantic refuses the others
            return list[str]
        return str if issubclass(item, Options) else list[item]  # type: ignore[valid-type]
    declared = _declared_type(field)
    return str if declared in (int, float) or get_origin(declared) is Literal else declared


def _declared_type(field: FieldInfo) -> Any:
    """The annotation without its `None`."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    is_optional = NoneType in get_args(field.annotation)
    return kinds[0] if is_optional else field.annotation


def _flag(path: tuple[str, ...]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _negated(path: tuple[str, ...]) -> str:
    *above, name = path
    return "--" + ".".join([*above, f"no-{name}"]).replace("_", "-")


def _is_given(value: Any) -> bool:
    return value is not None and value != []  # a flag that may be repeated has no items where it is not there


def _nest(given: dict[str, Any]) -> dict[str, Any]:
    """`{"fsdp_config__cpu_offload": True}` to `{"fsdp_config": {"cpu_offload": True}}`, without what is None."""
    nested: dict[str, Any] = {}
    for name, value in given.items():
        if not _is_given(value):
            continue
        *above, last = name.split(_SEPARATOR)
        level = nested
        for part in above:
            level = level.setdefault(part, {})
        level[last] = value
    return nested

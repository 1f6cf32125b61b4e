"""Config files (YAML, TOML, JSON, Python) and the merge `flag > file > default`."""

import json
import runpy
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from xtuner.errors import UsageError
from xtuner.v1.config.option import Options, shorthands_of
from xtuner.v1.config.trainer import TrainerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PARSERS: dict[str, Any] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


def resolve_config(flags: Mapping[str, Any], config_file: Path | None = None) -> TrainerConfig:
    """Merge nested option values: what `flags` holds wins over the file, the file over the defaults.

    Raises:
        UsageError: an unknown key (the nearest known one is named), a value out of range, an unreadable file, a
            shorthand beside another value of its option.
    """
    of_file = load_values(config_file) if config_file else {}
    values = _merge(spell_out(of_file), spell_out(flags))
    try:
        return TrainerConfig.model_validate(values)
    except ValidationError as error:
        raise explain_invalid(error, config_file) from None


def load_values(path: Path) -> dict[str, Any]:
    """The options that `path` sets, as nested mappings; nothing is filled in from the defaults."""
    if not path.is_file():
        raise UsageError(f"there is no config file {path}", hint="check the path given to --config")
    if path.suffix == ".py":
        return _load_python(path)
    if path.suffix not in _PARSERS:
        raise UsageError(
            f"config file {path} has the ending {path.suffix or '(none)'}",
            hint="use .yaml, .toml, .json, or a .py that defines `trainer = TrainerConfig(...)`",
        )
    try:
        values = _PARSERS[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"config file {path} cannot be read: {error}", hint="mend the file's syntax") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"config file {path} holds a {type(values).__name__}", hint="write one `option: value` a line")
    return {_snake(key): _snake_keys(value) for key, value in values.items()}


def _load_python(path: Path) -> dict[str, Any]:
    trainer = runpy.run_path(str(path)).get("trainer")
    if not isinstance(trainer, TrainerConfig):
        raise UsageError(
            f"{path} defines no `trainer`",
            hint="from xtuner.v1.train import TrainerConfig; trainer = TrainerConfig(load_from=..., ...)",
        )
    return trainer.model_dump(exclude_unset=True)


def _snake(key: Any) -> str:
    return str(key).replace("-", "_")


def _kebab(key: str) -> str:
    return key.replace("_", "-")


def _snake_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_snake_keys(inner) for inner in value]
    return {_snake(key): _snake_keys(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both_nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_nested else value
    return merged


def spell_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Option values without shorthands: `auto_resume: true` becomes `resume: auto`.

    Raises:
        UsageError: a shorthand is neither true nor false, or stands beside another value of its option.
    """
    plain = dict(values)
    for name, field in TrainerConfig.model_fields.items():
        for shorthand, meaning in shorthands_of(field).items():
            is_wanted, flag = plain.pop(shorthand, False), "--" + _kebab(shorthand)
            if not isinstance(is_wanted, bool):
                raise UsageError(f"{flag} is {is_wanted!r}", hint="it takes no value; in a config file true or false")
            if is_wanted and plain.setdefault(name, meaning) != meaning:
                raise UsageError(
                    f"{flag} and --{_kebab(name)} {plain[name]} are both given",
                    hint=f"{flag} means --{_kebab(name)} {meaning}: keep one",
                )
    return plain


def explain_invalid(error: ValidationError, config_file: Path | None) -> UsageError:
    """The first thing that pydantic found wrong, in words that name the flag."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    where = f" in {config_file}" if config_file else ""
    if first["type"] == "extra_forbidden":
        nearest = get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "xtuner sft --help lists every option"
        return UsageError(f"unknown option {'.'.join(path)}{where}", hint=hint)
    flag = "--" + _kebab(".".join(path))
    return UsageError(
        f"{flag}: {first['msg'][0].lower()}{first['msg'][1:]} (value: {first['input']!r})",
        hint=f"xtuner sft --help describes {flag}",
    )


def _known_keys(path: list[str]) -> list[str]:
    options: type[Options] = TrainerConfig
    for part in path:
        if part.isdigit():  # an item of a list, whose type the step before has taken
            continue
        annotation: Any = options.model_fields[part].annotation
        options = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return list(options.model_fields)

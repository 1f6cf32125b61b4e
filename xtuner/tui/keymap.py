"""Keys of one's own: `keys.toml` read and checked against what a screen can do.

    [monitor]
    pause = "p"
    overview.smoother = ["m", "ctrl+up"]

What is wrong in the file is told and left out: a screen opens whatever stands there.
"""

import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, format_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The way out, the palette and the focus stay where they are, whatever else is mapped.
FIXED_KEYS = frozenset({"ctrl+c", "ctrl+p", "ctrl+q", "tab", "shift+tab"})
_MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
_NAMED_KEYS = {key.value for key in Keys}
_SIGNS = {
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "escape": "Esc",
    "enter": "Enter",
    "space": "space",
    "delete": "Del",
}


@dataclass(frozen=True)
class Action:
    """Something that keys do.

    Attributes:
        id: its name in `keys.toml`.
        keys: those that do it by themselves, by their names in Textual.
        about: what it does.
    """

    id: str
    keys: tuple[str, ...]
    about: str


class Place(NamedTuple):
    """A part of a screen that hears keys.

    Attributes:
        title: its name for people.
        ids: the actions that can be heard there at the same time.
        fixed: keys that have a meaning there and no name in `keys.toml`.
    """

    title: str
    ids: frozenset[str]
    fixed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UserKeys:
    """What a `keys.toml` says of one screen.

    Attributes:
        keys: the keys of each action that has others than by itself.
        problems: what is wrong in the file, a sentence each.
    """

    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def keymap(self) -> dict[str, str]:
        """As `App.set_keymap` takes it."""
        return {action: ",".join(keys) for action, keys in self.keys.items()}


def actions_of(bindings: Sequence[BindingType]) -> dict[str, Action]:
    """The actions among `bindings` that have a name, by it."""
    named = [binding for binding in bindings if isinstance(binding, Binding) and binding.id]
    return {str(one.id): Action(str(one.id), tuple(one.key.split(",")), one.description) for one in named}


def sign(key: str) -> str:
    """A key as it is called on a page for people: `shift+left` is `Shift+←`."""
    *modifiers, name = key.split("+")
    shown = _SIGNS.get(name) or format_key(name)
    if shown not in _SIGNS.values() and (modifiers or len(shown) > 1):
        shown = shown.capitalize()
    return "+".join([*(modifier.capitalize() for modifier in modifiers), shown])


def read_user_keys(path: Path, screen: str, actions: Mapping[str, Action], places: Sequence[Place]) -> UserKeys:
    """The keys that `path` gives to the actions of `screen`, and what is wrong with the others."""
    problems: list[str] = []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # what is no TOML or no UTF-8 is a ValueError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return UserKeys(problems=[f"cannot be read: {reason}"])
    section = content.get(screen, {})
    if not isinstance(section, dict):
        return UserKeys(problems=[f"{screen} is no table; write [{screen}] above its actions"])
    problems += [f"{name} is no screen with keys; that is [{screen}]" for name in content if name != screen]
    wanted: dict[str, tuple[str, ...]] = {}
    for action, value in _flat(section):
        keys, problem = _take_keys(action, value, actions)
        if problem:
            problems.append(problem)
        else:
            wanted[action] = keys
    problems += _drop_clashes(wanted, actions, places)
    return UserKeys(wanted, problems)


def _flat(table: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """Names as they are in the code, whether they stand in tables, with dots or in quotes."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", value


def _take_keys(action: str, value: Any, actions: Mapping[str, Action]) -> tuple[tuple[str, ...], str]:
    """The keys of one entry by their names, or else what is wrong with it."""
    if action not in actions:
        nearest = get_close_matches(action, actions, n=1)
        return (), f"there is no action {action}" + (f"; did you mean {nearest[0]}?" if nearest else "")
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        return (), f'{action}: a key, or a list of keys, is text, such as "f5" or ["p", "ctrl+up"]'
    keys = tuple(map(_name_of, texts))
    for text, key in zip(texts, keys, strict=True):
        if key in FIXED_KEYS:
            return (), f"{action}: {sign(key)} cannot be given away"
        if not _is_key(key):
            return (), f"{action}: there is no key {text}; names are such as f5, ctrl+up, question_mark"
    return keys, ""


def _name_of(text: str) -> str:
    """The name of a key, for a character too, as Textual makes it of its name in Unicode."""
    if len(text) != 1 or text.isalnum():
        return text
    name = unicodedata.name(text, text).lower().replace("-", "_").replace(" ", "_")
    return KEY_NAME_REPLACEMENTS.get(name, name)


def _is_key(key: str) -> bool:
    *modifiers, name = key.split("+")
    return set(modifiers) <= _MODIFIERS and (key in _NAMED_KEYS or name in _NAMED_KEYS or len(format_key(name)) == 1)


def _drop_clashes(
    wanted: dict[str, tuple[str, ...]], actions: Mapping[str, Action], places: Sequence[Place]
) -> Iterator[str]:
    """Take out of `wanted` what would have a key of something else, the later of two first."""
    clash = _find_clash(wanted, actions, places)
    while clash is not None:
        action, key, other = clash
        del wanted[action]
        yield f"{action}: {sign(key)} is {other} already; give one of them another key"
        clash = _find_clash(wanted, actions, places)


def _find_clash(
    wanted: Mapping[str, tuple[str, ...]], actions: Mapping[str, Action], places: Sequence[Place]
) -> tuple[str, str, str] | None:
    for action in reversed(list(wanted)):
        for place in places:
            for key in wanted[action] if action in place.ids else ():
                if key in actions[action].keys:  # what shares a key by itself may go on to
                    continue
                if key in place.fixed:
                    return action, key, f"a key of {place.title}"
                for other in sorted(place.ids - {action}):
                    if key in wanted.get(other, actions[other].keys):
                        return action, key, other
    return None

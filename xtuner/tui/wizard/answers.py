"""What was answered so far, as typed: the one source of config, command line and file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.launch.fit import NPROC, Change
from xtuner.launch.plan import LaunchPlan
from xtuner.run.atomic import read_json, write_json
from xtuner.run.text import visible
from xtuner.tui.wizard.fields import all_fields, nested
from xtuner.user_cache import user_cache_dir
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.files import resolve_config

Source = Literal["flag", "file", "you", "preset", "fix", "detected", "default"]
_SCHEMA = 1


@dataclass(frozen=True)
class Answer:
    """What was typed, and where it came from."""

    text: str
    source: Source


class Answers:
    """Answers by the key of their question; what is not there has its default.

    A wrong answer stays as it was typed until it is mended, and `config` refuses to be made of it.
    """

    def __init__(self, entries: Mapping[str, Answer] | None = None) -> None:
        self._entries = dict(entries or {})

    @classmethod
    def of_config(cls, config: TrainerConfig, flags: Iterable[str] = (), nproc: int | None = None) -> "Answers":
        """The options that were set in `config`: those of the keys `flags` by a flag, the others by a file."""
        given = {key: Answer(all_fields()[key].show(value), "file") for key, value in _set_values(config)}
        entries = {
            key: replace(answer, source="flag") if key in set(flags) else answer for key, answer in given.items()
        }
        if nproc is not None:
            entries[NPROC] = Answer(str(nproc), "flag")
        return cls(entries)

    def copy(self) -> "Answers":
        """Another with the same answers."""
        return Answers(self._entries)

    def with_given(self, other: "Answers") -> "Answers":
        """These, with those of `other` above them."""
        return Answers({**self._entries, **other._entries})

    def text(self, key: str) -> str:
        """What stands in the field of `key`."""
        return self._entries[key].text if key in self._entries else all_fields()[key].show(all_fields()[key].default)

    def source(self, key: str) -> Source:
        """Where that came from."""
        return self._entries[key].source if key in self._entries else "default"

    def set(self, key: str, text: str, source: Source = "you") -> None:
        """Answer `key`; what says no more than the default is no answer."""
        if text == self.text(key):
            return
        field = all_fields()[key]
        if text == field.show(field.default):
            self._entries.pop(key, None)
        else:
            self._entries[key] = Answer(text, source)

    def apply(self, changes: Iterable[Change]) -> None:
        """Answer as the planner advises."""
        for change in changes:
            self.set(change.key, all_fields()[change.key].show(change.value), "fix")

    def error(self, key: str) -> UsageError | None:
        """What is wrong with the answer to `key` by itself."""
        try:
            all_fields()[key].parse(self.text(key))
        except UsageError as error:
            return error
        return None

    def errors(self) -> dict[str, UsageError]:
        """The answers that are wrong by themselves."""
        return {key: error for key in self._entries if (error := self.error(key))}

    @property
    def nproc(self) -> int | None:
        """Ranks on this machine, if they were answered; a wrong answer is none."""
        return None if self.error(NPROC) else all_fields()[NPROC].parse(self.text(NPROC))

    def config(self) -> TrainerConfig:
        """The options.

        Raises:
            UsageError: the first answer that is wrong by itself.
        """
        values = {key: all_fields()[key].parse(answer.text) for key, answer in self._entries.items() if key != NPROC}
        return resolve_config(nested(values))

    def valid_config(self) -> TrainerConfig:
        """The options, with the default for what is wrong."""
        wrong = self.errors()
        return Answers({key: answer for key, answer in self._entries.items() if key not in wrong}).config()

    def plan(self, template: LaunchPlan) -> LaunchPlan:
        """The launch: `template` with these options and ranks.

        Raises:
            UsageError: an answer is wrong by itself.
        """
        if error := self.error(NPROC):
            raise error
        return replace(template, config=self.config(), nproc_per_node=self.nproc or template.nproc_per_node)

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "schema": _SCHEMA,
            "answers": {key: [answer.text, answer.source] for key, answer in sorted(self._entries.items())},
        }

    @classmethod
    def from_json(cls, value: Any) -> "Answers":
        """Back from the file; entries that no option or no answer has today are left out."""
        entries = value.get("answers") if isinstance(value, dict) and value.get("schema") == _SCHEMA else None
        if not isinstance(entries, dict):
            return cls()
        return cls(
            {
                key: Answer(entry[0], cast("Source", entry[1]))
                for key, entry in entries.items()
                if key in all_fields() and _is_answer(entry)
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self._entries == other._entries

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._entries)


def _is_answer(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and entry[1] in get_args(Source)


def _set_values(config: TrainerConfig) -> Iterable[tuple[str, Any]]:
    """The options that somebody set, be it to their default."""
    for key in all_fields():
        if key == NPROC:
            continue
        *above, name = key.split(".")
        options: Any = config
        is_set = True
        for part in above:
            is_set = is_set and part in options.model_fields_set
            options = getattr(options, part)
        if is_set and name in options.model_fields_set:
            yield key, getattr(options, name)


def config_yaml(config: TrainerConfig, command: str) -> str:
    """A file for `--config` that says the same; its first lines are `command`, which launches the run without it."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != values:  # line ends of Unicode (U+0085) in a path: PyYAML writes them as they are
        text = yaml.safe_dump(values, sort_keys=False)
    # A comment too may hold nothing that YAML cannot: paths may have control characters and line ends in them.
    comment = "".join(f"# {line}\n" for line in visible(command).splitlines())
    return f"{comment}{text}"


def kept_path() -> Path:
    """Where answers are kept for `--continue`."""
    return user_cache_dir() / "wizard.json"


def keep(answers: Answers) -> None:
    """Write the answers for `--continue`.

    Raises:
        EnvironmentFault: the file cannot be written.
    """
    path = kept_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, answers.to_json())
    except OSError as error:
        raise EnvironmentFault(
            f"the answers cannot be kept in {path}: {error.strerror}", hint="--continue will not find them"
        ) from None


def kept_answers() -> Answers:
    """The answers of the last time; none where there are none, or none that can be read."""
    try:
        return Answers.from_json(read_json(kept_path()))
    except (OSError, ValueError):
        return Answers()

"""The steps of the wizard, which questions each asks, and the presets of a run's length."""

import re
from dataclasses import dataclass
from typing import Literal

from xtuner.errors import XTunerError
from xtuner.language import N_
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.fields import Field, all_fields

StepName = Literal["model", "data", "hardware", "training", "output", "review"]

_FLAG = re.compile(r"--[a-z][a-z0-9.-]*")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: its key.
        title: on the rail.
        groups: the groups of options it asks for.
        first: keys of the questions that come first; without an answer to one of them most runs make no sense.
    """

    name: StepName
    title: str
    groups: tuple[str, ...]
    first: tuple[str, ...]

    @property
    def fields(self) -> list[Field]:
        """Its questions, the first ones first, the others in the order of the help."""
        fields = all_fields()
        inside = [field for field in fields.values() if field.group in self.groups]
        return [fields[key] for key in self.first] + [field for field in inside if field.key not in self.first]


STEPS: tuple[Step, ...] = (
    Step("model", N_("Model"), ("Model",), ("load_from",)),
    Step("data", N_("Data"), ("Data",), ("dataset",)),
    Step(
        "hardware",
        N_("Method and hardware"),
        ("Sharding and precision", "LoRA"),
        ("nproc_per_node", "lora.rank", "fsdp_config.recompute_ratio", "fsdp_config.cpu_offload"),
    ),
    Step(
        "training",
        N_("Training"),
        ("Length of the run", "Optimization", "Evaluation"),
        ("total_step", "epoch_num", "global_batch_size", "lr"),
    ),
    Step("output", N_("Output"), ("Output", "Checkpoints"), ("work_dir",)),
    Step("review", N_("Review"), (), ()),
)


def step_of(key: str) -> StepName:
    """The step that asks for `key`."""
    group = all_fields()[key].group
    return next(step.name for step in STEPS if group in step.groups)


def step_of_error(error: XTunerError) -> StepName:
    """The step of the first flag that the words of `error` name; Review where they name none."""
    keys = {field.flag: key for key, field in all_fields().items()}
    named = _FLAG.findall(f"{error.message} {error.hint}")
    return next((step_of(keys[flag]) for flag in named if flag in keys), "review")


@dataclass(frozen=True)
class Preset:
    """A length of the run; what it does not name it leaves alone."""

    name: str
    help: str
    answers: tuple[tuple[str, str], ...]


PRESETS: tuple[Preset, ...] = (
    Preset(
        N_("quick look"),
        N_("20 steps, to see that everything works"),
        (("total_step", "20"), ("epoch_num", ""), ("checkpoint_interval", "")),
    ),
    Preset(
        N_("standard"),
        N_("one pass over the data, saved every half hour"),
        (("total_step", ""), ("epoch_num", "1"), ("checkpoint_interval", "30min")),
    ),
    Preset(
        N_("long"),
        N_("three passes over the data, saved every half hour"),
        (("total_step", ""), ("epoch_num", "3"), ("checkpoint_interval", "30min")),
    ),
)
CUSTOM = N_("custom")


def apply_preset(answers: Answers, name: str) -> None:
    """Answer as the preset `name` does."""
    preset = next(preset for preset in PRESETS if preset.name == name)
    for key, text in preset.answers:
        answers.set(key, text, "preset")


def preset_of(answers: Answers) -> str:
    """The preset that `answers` are like, or `CUSTOM`."""
    return next(
        (preset.name for preset in PRESETS if all(answers.text(key) == text for key, text in preset.answers)), CUSTOM
    )

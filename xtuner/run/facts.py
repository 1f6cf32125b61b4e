"""What a run directory tells of the model and the machine of a run."""

from pathlib import Path
from typing import NamedTuple

from xtuner.run.atomic import read_object
from xtuner.run.layout import RunDir


class RunFacts(NamedTuple):
    """What health rules need to know of a run besides its numbers.

    Attributes:
        vocab_size: words of the model, to tell a random one by its first loss; None where not known.
        has_weights: whether weights were loaded.
        memory_limit_gib: memory of one device, `device_memory_gib` of run.json; None where not known.
    """

    vocab_size: int | None = None
    has_weights: bool = False
    memory_limit_gib: float | None = None


def read_facts(run_dir: RunDir | None) -> RunFacts:
    """The facts of a run; nothing where there is no run directory, or where its files are broken."""
    if run_dir is None:
        return RunFacts()
    config = read_object(run_dir.config_json)
    source = config.get("load_from") or config.get("model_cfg")
    model = read_object(Path(source) / "config.json") if isinstance(source, str) else {}
    text_config = model.get("text_config")
    vocab_size = (text_config if isinstance(text_config, dict) else model).get("vocab_size")
    limit_gib = read_object(run_dir.run_json).get("device_memory_gib")
    return RunFacts(
        vocab_size=vocab_size if isinstance(vocab_size, int) else None,
        has_weights=bool(config.get("load_from")),
        memory_limit_gib=float(limit_gib) if isinstance(limit_gib, int | float) else None,
    )

"""What a run cannot do without, all of it at once."""

from xtuner.errors import UsageError
from xtuner.v1.config.trainer import TrainerConfig

# flag, what is wrong without it, how it is passed
_MODEL = ("--load-from", "no model is given", "--load-from MODEL_DIR")
_DATA = ("--dataset", "no data is given", "--dataset FILE.jsonl")
_TOKENIZER = ("--tokenizer-path", "--model-cfg is given without --tokenizer-path", "--tokenizer-path DIR")


def missing_flags(config: TrainerConfig) -> list[str]:
    """The flags that have to be given and are not."""
    return [flag for flag, _, _ in _missing(config)]


def require_flags(config: TrainerConfig, *, hint: str = "") -> None:
    """Refuse a config that lacks something, naming everything that is missing; `hint` is said besides.

    Raises:
        UsageError: something is missing.
    """
    missing = _missing(config)
    if missing:
        said = " and ".join(what for _, what, _ in missing)
        fix = f"pass {' '.join(usage for _, _, usage in missing)}"
        raise UsageError(said, hint=f"{fix}; {hint}" if hint else fix)


def _missing(config: TrainerConfig) -> list[tuple[str, str, str]]:
    missing = []
    if config.load_from is None and config.model_cfg is None:
        missing.append(_MODEL)
    if config.model_cfg is not None and config.load_from is None and config.tokenizer_path is None:
        missing.append(_TOKENIZER)
    if not config.dataset and not config.datasets:
        missing.append(_DATA)
    return missing

"""`Trainer` and `TrainerConfig`: `Trainer(TrainerConfig(...)).fit()` under torchrun.

Both load on use, so that importing `TrainerConfig` alone costs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.v1.config import DatasetConfig, FSDPConfig, LoraConfig, TrainerConfig
    from xtuner.v1.train.trainer import Trainer

__all__ = ["DatasetConfig", "FSDPConfig", "LoraConfig", "Trainer", "TrainerConfig"]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from xtuner.v1.train.trainer import Trainer

        return Trainer
    if name in __all__:
        from xtuner.v1 import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

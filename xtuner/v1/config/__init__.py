"""Every training option, declared once: flags, file keys and `config.json` all come from here."""

from xtuner.v1.config.parts import AttentionChoice, DatasetConfig, FSDPConfig, LoraConfig, OptimizerName
from xtuner.v1.config.trainer import TrainerConfig

__all__ = ["AttentionChoice", "DatasetConfig", "FSDPConfig", "LoraConfig", "OptimizerName", "TrainerConfig"]

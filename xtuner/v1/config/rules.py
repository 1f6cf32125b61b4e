"""The rules between options: which contradict each other, and which need another one."""

from typing import TYPE_CHECKING

from xtuner.errors import UsageError

if TYPE_CHECKING:
    from xtuner.v1.config.trainer import TrainerConfig


def require_consistent(config: "TrainerConfig") -> None:
    """Raise `UsageError` for options that contradict each other or are missing."""
    if config.load_from is None and config.model_cfg is None:
        raise UsageError("no model is given", hint="pass --load-from MODEL_DIR")
    if config.load_from is not None and config.model_cfg is not None:
        raise UsageError(
            "--load-from and --model-cfg are both given",
            hint="--load-from trains from its weights, --model-cfg from random ones: keep one",
        )
    if config.model_cfg is not None and config.tokenizer_path is None:
        raise UsageError(
            "--model-cfg is given without --tokenizer-path",
            hint="pass --tokenizer-path DIR, a directory with tokenizer.json and a chat template",
        )
    if not config.dataset and not config.datasets:
        raise UsageError("no data is given", hint="pass --dataset FILE.jsonl, one chat a line")
    if config.total_step is not None and config.epoch_num is not None:
        raise UsageError(
            f"--total-step {config.total_step} and --epoch-num {config.epoch_num} are both given",
            hint="keep one; with neither, the run is one epoch",
        )
    if config.lora.rank and config.model_cfg is not None:
        raise UsageError(
            "--lora.rank and --model-cfg are both given",
            hint="adapters need trained weights under them: pass --load-from MODEL_DIR",
        )
    _check_tensor_parallel(config)
    if config.lr_min > config.lr:
        raise UsageError(f"--lr-min {config.lr_min:g} is above --lr {config.lr:g}", hint="lower --lr-min or raise --lr")
    _check_evaluation(config)


def _check_tensor_parallel(config: "TrainerConfig") -> None:
    if config.tp_size == 1:
        return
    if config.optimizer == "muon":
        raise UsageError(
            f"--tp-size {config.tp_size} and --optimizer muon do not go together: Muon needs whole matrices",
            hint="use --optimizer adamw",
        )
    if config.fsdp_config.torch_compile:
        raise UsageError(
            f"--tp-size {config.tp_size} and --fsdp-config.torch-compile do not go together",
            hint="leave one of them out",
        )


def _check_evaluation(config: "TrainerConfig") -> None:
    if config.eval_dataset:
        return
    early_stopping = ("early_stopping_patience", "early_stopping_min_delta")
    needy = ("eval_interval", "eval_max_packs", "eval_generations", *early_stopping)
    for name in needy:
        if getattr(config, name):
            raise UsageError(
                f"--{name.replace('_', '-')} {getattr(config, name)} is given without --eval-dataset",
                hint="pass --eval-dataset FILE.jsonl, chats that are not trained on",
            )

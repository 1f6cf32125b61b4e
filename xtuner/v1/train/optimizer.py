"""The optimizer of a run: built from its options, and said in its log."""

from importlib.metadata import version

from transformers import PreTrainedModel

from xtuner.v1.config import TrainerConfig
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.optim.build import AnyOptimizer, build_optimizer


def optimizer_of(model: PreTrainedModel, config: TrainerConfig) -> AnyOptimizer:
    """The optimizer that `config` names, over the trained parameters of the sharded `model`."""
    return build_optimizer(
        config.optimizer,
        model,
        hidden_matrices=hidden_matrices(model),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
        muon_momentum=config.muon_momentum,
    )


def describe_optimizer(model: PreTrainedModel, config: TrainerConfig) -> str:
    """One line on who trains what and in which precision the state is; `model` may be on the meta device."""
    if config.optimizer == "adamw-8bit":
        return f"optimizer: AdamW of torchao {version('torchao')}; state in 8 bits, about 2 bytes a trained parameter"
    matrices = hidden_matrices(model)
    if config.optimizer == "adamw" or not matrices:
        return "optimizer: AdamW; state in float32, 8 bytes a trained parameter"
    num_matrices = sum(weight.shape[0] if weight.dim() == 3 else 1 for weight in matrices)
    of_muon = sum(weight.numel() for weight in matrices)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"optimizer: Muon for {num_matrices:,} matrices ({of_muon:,} parameters), AdamW for {trained - of_muon:,} "
        "other parameters; state in float32, 4 and 8 bytes a parameter"
    )

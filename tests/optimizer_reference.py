"""Plain torch optimizers on unsharded weights, driven by the same made-up gradients as the sharded ones."""

import re
import zlib

import torch
from torch import nn

from xtuner.v1.model.shard import copy_rows, local_part
from xtuner.v1.optim.build import build_optimizer, set_learning_rate, torch_optimizers

LR, BETAS, WEIGHT_DECAY, MOMENTUM = 0.01, (0.9, 0.95), 0.1, 0.9
RATES = (0.01, 0.02, 0.005, 0.01)  # of the steps; more than one, so that momentum and changes of rate count

_LINEAR = re.compile(r"\.layers\.\d+\..*\b[a-z_]*_proj\.weight$")
_EXPERTS = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")


def is_linear(name: str) -> bool:
    """Whether a parameter of this name is the matrix of a linear layer in a decoder block."""
    return bool(_LINEAR.search(name))


def is_experts(name: str) -> bool:
    """Whether it is a stack of experts."""
    return bool(_EXPERTS.search(name))


def gradient(name: str, shape: torch.Size, step: int) -> torch.Tensor:
    """Of a few large singular values, as real gradients are; the same wherever it is asked for."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {step}".encode()))
    full = torch.randn(shape, generator=generator)
    if len(shape) < 2:
        return full
    spread = torch.linspace(0, -3, shape[-1]).exp()
    return full * spread


def optimizer_of_module(name: str, module: nn.Module):
    """The optimizer of that name, with nothing for Muon to train."""
    options = {"lr": LR, "betas": BETAS, "weight_decay": WEIGHT_DECAY, "muon_momentum": MOMENTUM}
    return build_optimizer(name, module, hidden_matrices=[], **options)


def state_bytes(optimizer) -> float:
    """What this rank's part of the state takes, counters of steps aside."""
    tensors = [
        local_part(value)
        for part in torch_optimizers(optimizer)
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim()
    ]
    return sum(part.nbytes for tensor in tensors for part in _stored(tensor))


def _stored(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that one of 8 bits is made of; others as they are."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def drive(named_parameters: dict[str, nn.Parameter], optimizer, rates=RATES, first_step: int = 0) -> None:
    """Steps at `rates` of an optimizer over parameters that may be sharded, each rank giving its rows."""
    for step, lr in enumerate(rates, first_step):
        for name, parameter in named_parameters.items():
            parameter.grad = torch.empty_like(parameter)
            copy_rows(parameter.grad, gradient(name, parameter.shape, step), name)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def after_muon(weights: dict[str, torch.Tensor], rates=RATES) -> dict[str, torch.Tensor]:
    """`weights` after steps of `torch.optim.Muon` on linear layers and on each expert, of AdamW on all others."""
    plain = {name: [nn.Parameter(part.clone()) for part in _parts(name, weight)] for name, weight in weights.items()}
    matrices = [p for name, parts in plain.items() for p in parts if is_linear(name) or is_experts(name)]
    others = [p for name, parts in plain.items() for p in parts if not (is_linear(name) or is_experts(name))]
    muon = torch.optim.Muon(
        matrices, lr=LR, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers = [muon]
    if others:
        optimizers.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=LR, betas=BETAS, fused=True))
    for step, lr in enumerate(rates):
        for name, parts in plain.items():
            full = gradient(name, weights[name].shape, step)
            for part, of_part in zip(parts, _parts(name, full), strict=True):
                part.grad = of_part.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
    return {
        name: torch.stack([p.detach() for p in parts]) if is_experts(name) else parts[0].detach()
        for name, parts in plain.items()
    }


def _parts(name: str, tensor: torch.Tensor) -> list[torch.Tensor]:
    return list(tensor) if is_experts(name) else [tensor]

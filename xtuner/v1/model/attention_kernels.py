"""Kernels that take a whole pack with its document boundaries (CUDA), and the choice between them.

    flash3   flash-attention 3 (`flash_attn_interface`), Hopper
    flash2   flash-attention 2 (`flash_attn`), Ampere and later
    varlen   `torch.nn.attention.varlen`, part of PyTorch; the only one with attention sinks
    sdpa     document by document, any device and dtype: `xtuner.v1.model.document_attention`

Shapes: H query heads, K key-value heads, T tokens of the pack, D head dim.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import torch

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.v1.config import AttentionChoice
from xtuner.v1.model.document_attention import ScoreRules, join_sinks, sinks_gradient

KernelName = Literal["flash3", "flash2", "varlen", "sdpa"]

PACK_KERNELS: tuple[KernelName, ...] = ("flash3", "flash2", "varlen")  # in the order of preference
_MAX_HEAD_DIM = 256
_MODULES = {"flash3": "flash_attn_interface", "flash2": "flash_attn", "varlen": "torch.nn.attention.varlen"}
_INSTALL = {"flash3": "build flash-attention 3 (its hopper/ folder)", "flash2": "pip install flash-attn"}


class PackBounds(NamedTuple):
    """Where the documents of a pack begin: int32 [documents + 1] on the device, and the longest one's tokens."""

    cu_seqlens: torch.Tensor
    max_length: int


@dataclass(frozen=True)
class AttentionNeeds:
    """What a layer asks of a kernel.

    Attributes:
        device_type: "cuda", "cpu" ...
        capability: CUDA's (major, minor); (0, 0) elsewhere.
        dtype: of query, key and value.
        head_dim: the larger one of the query's and the value's.
        has_softcap: scores are capped.
        has_sinks: a sink takes part in the softmax.
    """

    device_type: str
    capability: tuple[int, int]
    dtype: torch.dtype
    head_dim: int
    has_softcap: bool = False
    has_sinks: bool = False


def device_capability(device: torch.device) -> tuple[int, int]:
    """CUDA's (major, minor); (0, 0) for other devices."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def choose_kernel(choice: AttentionChoice, needs: AttentionNeeds) -> KernelName:
    """The kernel for a layer: the one asked for or, with "auto", the first that can; sdpa where it cannot."""
    wanted = PACK_KERNELS if choice == "auto" else (choice,)
    return next((name for name in wanted if name == "sdpa" or not _refusal(name, needs)), "sdpa")


def require_kernel(choice: AttentionChoice, needs: AttentionNeeds) -> None:
    """Raise if the kernel that was asked for by name cannot do what is needed.

    Raises:
        EnvironmentFault: it is not installed, or the device cannot run it.
        UsageError: it lacks what the model needs.
    """
    if choice in ("auto", "sdpa"):
        return
    if not is_installed(choice):
        raise EnvironmentFault(
            f"--attention {choice} is not installed: Python finds no module {_MODULES[choice]}",
            hint=f"{_INSTALL.get(choice, 'install a newer torch')}, or leave --attention at auto",
        )
    if reason := _refusal(choice, needs):
        error = EnvironmentFault if needs.device_type != "cuda" or "GPU" in reason else UsageError
        raise error(f"--attention {choice} {reason}", hint="leave --attention at auto")


@lru_cache
def is_installed(name: str) -> bool:
    """Whether Python finds the module of a kernel."""
    return importlib.util.find_spec(_MODULES[name]) is not None


def _refusal(name: KernelName | AttentionChoice, needs: AttentionNeeds) -> str:
    """Why a pack kernel cannot serve; empty if it can."""
    if needs.device_type != "cuda":
        return f"needs a CUDA GPU, this run is on {needs.device_type}"
    if not is_installed(name):
        return "is not installed"
    major = needs.capability[0]
    if (major != 9) if name == "flash3" else (major < 8):
        generation = "a Hopper" if name == "flash3" else "an Ampere or later"
        return f"needs {generation} GPU, this one has compute capability {needs.capability[0]}.{needs.capability[1]}"
    if needs.dtype not in (torch.bfloat16, torch.float16):
        return f"computes in bfloat16 or float16, this run in {str(needs.dtype).removeprefix('torch.')}"
    if needs.head_dim > _MAX_HEAD_DIM:
        return f"takes head dims up to {_MAX_HEAD_DIM}, this model has {needs.head_dim}"
    if needs.has_softcap and name == "varlen":
        return "has no soft cap on scores, which this model needs"
    if needs.has_sinks and name != "varlen":
        return "has no attention sinks, which this model needs"
    return ""


def attend_pack(
    name: KernelName,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: PackBounds,
    rules: ScoreRules,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of each document to itself, in one call.

    Args:
        name: one of `PACK_KERNELS` that `choose_kernel` has allowed.
        query: [T, H, D], last dimension contiguous.
        key: [T, K, D].
        value: [T, K, D].
        bounds: where documents begin.
        rules: scale, window, softcap.
        sinks: [H], see `document_attention`.

    Returns:
        [T, H, D].
    """
    if sinks is not None:
        return _VarlenWithSinks.apply(query, key, value, sinks, bounds, rules)
    if name == "varlen":
        return _varlen(query, key, value, bounds, rules)
    return _flash(name, query, key, value, bounds, rules)


def _flash(
    name: KernelName,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: PackBounds,
    rules: ScoreRules,
) -> torch.Tensor:
    softcap = {} if rules.softcap is None else {"softcap": rules.softcap}
    out = _function(_MODULES[name], "flash_attn_varlen_func")(
        query,
        key,
        value,
        cu_seqlens_q=bounds.cu_seqlens,
        cu_seqlens_k=bounds.cu_seqlens,
        max_seqlen_q=bounds.max_length,
        max_seqlen_k=bounds.max_length,
        softmax_scale=rules.scale,
        causal=True,
        window_size=_window_size(rules, causal_right=-1),
        **softcap,
    )
    return out[0] if isinstance(out, tuple) else out  # early releases of flash-attention 3 return the log-sum-exp too


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: PackBounds,
    rules: ScoreRules,
    **more: Any,
) -> torch.Tensor:
    varlen_attn = _function(_MODULES["varlen"], "varlen_attn")
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 groups heads without being told
        more["enable_gqa"] = query.shape[1] != key.shape[1]
    cu_seqlens, max_length = bounds
    window_size = _window_size(rules, causal_right=0)
    return varlen_attn(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        max_length,
        max_length,
        scale=rules.scale,
        window_size=window_size,
        **more,
    )


class _VarlenWithSinks(torch.autograd.Function):
    """PyTorch's kernel with sinks joined behind it; `document_attention` says why the backward pass is right."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor,
        bounds: PackBounds,
        rules: ScoreRules,
    ) -> torch.Tensor:
        aux_request = _function(_MODULES["varlen"], "AuxRequest")
        out, lse = cast(Any, _varlen(query, key, value, bounds, rules, return_aux=aux_request(lse=True)))
        out, lse = join_sinks(out.transpose(0, 1), lse, sinks[:, None])  # the kernel's lse is [H, T]
        out = out.transpose(0, 1).contiguous()
        ctx.save_for_backward(query, key, value, sinks, out, lse, bounds.cu_seqlens)
        ctx.max_length, ctx.rules = bounds.max_length, rules
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, out, lse, cu_seqlens = ctx.saved_tensors
        rules: ScoreRules = ctx.rules
        window_size = _window_size(rules, causal_right=0)
        grad_out = grad_out.contiguous()
        grads = torch.ops.torch_attn._varlen_attn_backward(
            grad_out,
            query,
            key,
            value,
            out,
            lse,
            cu_seqlens,
            cu_seqlens,
            ctx.max_length,
            ctx.max_length,
            rules.window is None,
            torch.zeros(2, dtype=torch.uint64, device=query.device),  # state of a dropout that is off
            rules.scale,
            list(window_size),
        )
        grad_sinks = sinks_gradient(grad_out.transpose(0, 1), out.transpose(0, 1), lse, sinks[:, None])[:, 0]
        return *grads, grad_sinks.to(sinks.dtype), None, None


def _window_size(rules: ScoreRules, *, causal_right: int) -> tuple[int, int]:
    """Tokens seen to the left and to the right of a query; -1 is no limit (on the right, `causal` sets one)."""
    return (-1, causal_right) if rules.window is None else (rules.window - 1, 0)


@lru_cache
def _function(module: str, name: str) -> Callable[..., Any]:
    return cast(Callable[..., Any], getattr(importlib.import_module(module), name))

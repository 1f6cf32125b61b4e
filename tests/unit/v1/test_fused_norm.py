"""One kernel in place of a norm's operations: only where both compute the same."""

import copy

import pytest
import tiny_models
import torch
from torch import nn

from xtuner.v1.config.memory import BlockShape
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.fused_norm import fuse_norms


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_the_norms_of_a_model_give_what_they_gave(architecture, tiny_model):
    """The same kernel runs on a CPU, in several steps."""
    model = build_meta_model(read_model_config(tiny_model(architecture)))
    norms = {name: module for name, module in model.named_modules() if "RMSNorm" in type(module).__name__}
    originals = {name: copy.deepcopy(module).to_empty(device="cpu") for name, module in norms.items()}
    num_fused = fuse_norms(model, "cuda")
    is_plain = BlockShape.of_config(model.config.get_text_config()).has_plain_norms
    assert num_fused == (len(norms) if is_plain else 0) and is_plain == (architecture != "gemma2")
    for name, original in originals.items():
        torch.manual_seed(0)
        nn.init.normal_(original.weight)
        fused = norms[name].to_empty(device="cpu")
        fused.load_state_dict(original.state_dict())
        size = original.weight.shape[0]
        hidden = [torch.randn(2, 3, size, requires_grad=True) for _ in range(2)]
        hidden[1].data.copy_(hidden[0].data)
        outs = [module(it) for module, it in zip((original, fused), hidden, strict=True)]
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-5, atol=1e-5)
        for out in outs:
            (out * torch.linspace(-1, 2, size)).sum().backward()
        torch.testing.assert_close(hidden[1].grad, hidden[0].grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused.weight.grad, original.weight.grad, rtol=1e-4, atol=1e-5)
        mixed = hidden[0].detach().bfloat16()  # the weight is fp32: as it was, in dtype and in value
        assert fused(mixed).dtype == original(mixed).dtype and torch.equal(fused(mixed), original(mixed))


def test_nothing_changes_on_a_cpu(tiny_model):
    model = build_meta_model(read_model_config(tiny_model("llama")))
    assert fuse_norms(model, "cpu") == 0 and "forward" not in vars(model.model.norm)


class _NormBase(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6


class HalfRMSNorm(_NormBase):
    def forward(self, hidden):
        return 0.5 * nn.functional.rms_norm(hidden, (8,), self.weight, self.eps)


class GatedRMSNorm(_NormBase):
    def forward(self, hidden, gate):
        return gate * nn.functional.rms_norm(hidden, (8,), self.weight, self.eps)


class PlainRMSNorm(_NormBase):
    def forward(self, hidden):
        return nn.functional.rms_norm(hidden, (8,), self.weight, self.eps)


class NoEpsRMSNorm(PlainRMSNorm):
    def __init__(self):
        super().__init__()
        del self.eps

    def forward(self, hidden):
        return nn.functional.rms_norm(hidden, (8,), self.weight, 1e-6)


def test_a_norm_that_computes_something_else_is_left_alone():
    modules = nn.ModuleList([HalfRMSNorm(), GatedRMSNorm(), NoEpsRMSNorm(), nn.LayerNorm(8), nn.RMSNorm(8)])
    assert fuse_norms(modules, "cuda") == 0
    assert fuse_norms(nn.ModuleList([PlainRMSNorm(), PlainRMSNorm()]), "cuda") == 2

"""Which parameters of a model are matrices that map one hidden state to another."""

from torch import nn
from transformers import PreTrainedModel

from xtuner.v1.model.build import decoder_blocks


def linear_layers_and_experts(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """The linear layers (modules) and the stacked experts (parameters) of the decoder blocks, by full name."""
    inside = {id(module) for block in decoder_blocks(model) for module in block.modules()}
    linear: list[str] = []
    experts: list[str] = []
    for path, module in model.named_modules():
        if id(module) not in inside:
            continue
        if type(module) is nn.Linear:
            linear.append(path)
        elif not type(module).__module__.startswith("torch."):  # a convolution of torch's has three dimensions too
            experts += [f"{path}.{name}" for name, p in module.named_parameters(recurse=False) if p.dim() == 3]
    return linear, experts


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The trained weights of linear layers [out, in] and of stacked experts [E, ., .] in the decoder blocks.

    Embeddings, the head, norms, biases and routers are not among them. Of LoRA the adapters of linear layers are;
    those of stacked experts are not, since one parameter holds the adapters of all experts side by side.
    """
    linear, experts = linear_layers_and_experts(model)
    weights = [model.get_submodule(path).weight for path in linear] + [model.get_parameter(name) for name in experts]
    stacked = _adapters_of_experts(model)
    return [w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad and id(w) not in stacked]


def _adapters_of_experts(model: nn.Module) -> set[int]:
    """The parameters of peft's wrappers around a stack of experts, which know its name as `parameter_name`."""
    return {
        id(weight)
        for wrapper in model.modules()
        if hasattr(wrapper, "parameter_name")
        for adapters in (wrapper.lora_A, wrapper.lora_B)
        if isinstance(adapters, nn.ModuleDict)
        for weight in adapters.parameters()
    }

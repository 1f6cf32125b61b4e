"""Whether the tensors are those of the architecture, as far as names tell without its code.

A model with tensors missing would start from random numbers in their place. What can be said for certain depends on
the architecture: decoders of known types carry the same names in each layer, while mixtures and hybrids may differ
from layer to layer, and a type that nobody here knows may do anything. Where nothing is certain, nothing is said;
the engine compares name by name before the first step.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from xtuner.hub.findings import Finding, fail, shown, shown_names, warn
from xtuner.hub.judge_config import Config, first_int, num_layers_of, text_config

# Decoders whose layers all have the same tensors; by the model type of config.json.
_UNIFORM = frozenset(
    """
    arcee cohere cohere2 ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neox gpt_oss gptj
    granite helium hunyuan_v1_dense llama ministral mistral mixtral nemotron olmo olmo2 olmo3 olmoe opt persimmon phi
    phi3 qwen2 qwen3 seed_oss smollm3 stablelm starcoder2
    """.split()  # noqa: SIM905
)
# Of those, the ones whose layers have at least these, as Llama has.
_LIKE_LLAMA = frozenset({"gemma", "granite", "llama", "ministral", "mistral", "qwen2", "qwen3", "seed_oss", "smollm3"})
_LLAMA_LAYER = frozenset(
    [f"self_attn.{name}_proj.weight" for name in "qkvo"]
    + [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    + ["input_layernorm.weight", "post_attention_layernorm.weight"]
)
_NUMBER = re.compile(r"\.(\d+)\.")
_STACKS = ("layers", "h", "blocks")
_NOT_TEXT = re.compile(r"vision|visual|audio|image|video|speech|encoder|mtp|nextn", re.IGNORECASE)
# Buffers that some versions of transformers stored and others did not.
_BUFFERS = (".inv_freq", ".attn.masked_bias", ".attn.bias", ".attention.masked_bias", ".attention.bias")
_MAX_LAYERS = 10_000  # no model has as many; a config may say anything
_HINT = "the weights are incomplete, or config.json belongs to another model: download the model again"

Layers = dict[int, set[str]]


def judge_layers(config: Config, names: Iterable[str]) -> list[Finding]:
    """Compare the tensors' `names` with the architecture in `config`."""
    names = list(names)
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type"))
    num_layers = num_layers_of(text)
    layers = _layers(names)
    if num_layers is None or not layers:
        return []
    findings = list(_judge_count(text, model_type, num_layers, layers))
    if model_type in _UNIFORM:
        findings += _judge_uniform(model_type, num_layers, layers)
    if model_type in _LIKE_LLAMA:
        findings += _judge_ends(config, names)
    return findings


def _layers(names: list[str]) -> Layers:
    """Number to names of the decoder's layers; empty unless there is exactly one stack that may be the decoder's."""
    by_layer: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:  # a mixture has 100,000
        parts = _NUMBER.split(name, 1)
        if len(parts) == 3:
            by_layer[parts[0], parts[1]].add(parts[2])
    buffers = {rest for rest in set().union(*by_layer.values()) if f".{rest}".endswith(_BUFFERS)}
    stacks: dict[str, Layers] = {}
    for (stack, number), members in by_layer.items():
        rest = members - buffers
        if _is_decoder(stack) and rest:
            stacks.setdefault(stack, {})[int(number)] = rest
    return next(iter(stacks.values())) if len(stacks) == 1 else {}


def _is_decoder(stack: str) -> bool:
    return stack.rpartition(".")[2] in _STACKS and not _NOT_TEXT.search(stack)


def _judge_count(text: Config, model_type: str, num_layers: int, layers: Layers) -> Iterator[Finding]:
    missing = [number for number in range(min(num_layers, _MAX_LAYERS)) if number not in layers]
    if missing and len(layers) > 1:  # one set of weights may serve all layers (ALBERT)
        message = f"config.json says {num_layers} layers, but {_numbers(missing)} of the weights are missing"
        # A gap cannot be meant; fewer layers at the end may be, in a type that is not known here.
        is_certain = model_type in _UNIFORM
        yield fail("LAYER_MISSING", message, _HINT) if is_certain else warn("LAYER_MISSING", message, _HINT)
    extra = sorted(number for number in layers if number >= num_layers)
    # Layers that predict further tokens stand behind the others in DeepSeek-V3, GLM-4.5 and their kin.
    num_expected = first_int(text, "num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers") or 0
    if len(extra) > num_expected:
        message = f"config.json says {num_layers} layers, but the weights have more ({_numbers(extra)})"
        yield warn("LAYER_UNEXPECTED", f"{message}, which are not loaded", "correct num_hidden_layers in config.json")


def _judge_uniform(model_type: str, num_layers: int, layers: Layers) -> Iterator[Finding]:
    """What one layer has and most others have too, all must have."""
    present = {number: rest for number, rest in layers.items() if number < num_layers}
    counts = Counter(rest for names in present.values() for rest in names)
    required = {rest for rest, count in counts.items() if 2 * count > len(present)}
    if model_type in _LIKE_LLAMA:
        required |= _LLAMA_LAYER
    lacking = [f"{number}.{rest}" for number, names in sorted(present.items()) for rest in sorted(required - names)]
    if lacking:
        message = f"{len(lacking):,} tensors of its layers are missing: {shown_names(lacking)}"
        yield fail("TENSORS_LACKING", f"as a model of type {shown(model_type, 40)}, {message}", _HINT)


def _judge_ends(config: Config, names: list[str]) -> Iterator[Finding]:
    """Embedding and final norm; the head where config.json says that it is not the embedding."""
    outside = [name for name in names if not _NUMBER.search(name)]
    ends = {"embed_tokens.weight": "the token embedding", "norm.weight": "the final norm"}
    if text_config(config).get("tie_word_embeddings", config.get("tie_word_embeddings")) is False:
        ends["lm_head.weight"] = "the output projection"
    lacking = [f"{what} ({end})" for end, what in ends.items() if not any(_ends_with(name, end) for name in outside)]
    if lacking:
        yield fail("TENSORS_LACKING", f"the weights lack {', '.join(lacking)}", _HINT)


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _numbers(numbers: list[int]) -> str:
    """`layer 3`, or `layers 3, 4 and 2 more`."""
    listed = shown_names([str(number) for number in numbers])
    return f"layer {listed}" if len(numbers) == 1 else f"layers {listed}"

"""What config.json says about whether a model can be trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, fail, shown, shown_names, shown_path, warn
from xtuner.hub.regular_file import read_json_object

Config = dict[str, Any]

_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
_DECODER_SUFFIXES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def read_config(directory: Path) -> tuple[Config, list[Finding]]:
    """config.json and what is wrong with it; empty when it cannot be used."""
    path = directory / "config.json"
    try:
        config = read_json_object(path)
    except HubError as error:
        return {}, [error.finding()]
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        message = f"{shown_path(path)} names no model_type"
        return {}, [fail("NO_MODEL_TYPE", message, "download this file again; is it the config of a language model?")]
    return config, list(_judge_config(config))


def text_config(config: Config) -> Config:
    """The part of a config that has the language model's sizes: a nested one where there is one."""
    nested = (config.get(name) for name in _TEXT_CONFIGS)
    return next((part for part in nested if isinstance(part, dict)), config)


def first_int(config: Config, *names: str) -> int | None:
    """The first of `names` that is a whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int), None)


def num_layers_of(text: Config) -> int | None:
    """The number of decoder layers, by any of its names."""
    return first_int(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def architecture_of(config: Config) -> str:
    """The first of the config's `architectures`, else `unknown`."""
    names = config.get("architectures")
    return shown(names[0]) if isinstance(names, list) and names else "unknown"


def _judge_config(config: Config) -> Iterator[Finding]:
    quantization = config.get("quantization_config") or text_config(config).get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        message = f"the weights are quantised ({shown(method, 40)}); full fine-tuning needs them in floating point"
        yield fail("QUANTIZED", message, "train the model that this one was quantised from (see its model card)")
    names = config.get("architectures")
    names = [str(name) for name in names] if isinstance(names, list) else []
    is_decoder = any(name.endswith(_DECODER_SUFFIXES) for name in names)
    if config.get("is_encoder_decoder") is True or (names and not is_decoder):
        kind = "an encoder-decoder model" if config.get("is_encoder_decoder") is True else "not a language model's name"
        message = f"the architecture is {shown_names(names) or 'not named'}: {kind}"
        yield warn("NOT_A_DECODER", message, "train a model whose architecture ends in ForCausalLM")


def judge_vocab_size(config: Config, num_rows: int) -> Iterator[Finding]:
    """`vocab_size` against the rows that are there; loading needs both to be equal."""
    vocab_size = first_int(text_config(config), "vocab_size")
    if vocab_size is not None and vocab_size != num_rows:
        message = f"vocab_size in config.json is {vocab_size:,}, but the embedding has {num_rows:,} rows"
        yield warn("VOCAB_MISMATCH", message, "config.json and weights may be of different models: download again")

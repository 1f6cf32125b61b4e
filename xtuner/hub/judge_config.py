"""What config.json and generation_config.json say about whether a model can be trained."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, Severity, fail, shown, shown_names, shown_path, warn
from xtuner.hub.regular_file import read_json_object

Config = dict[str, Any]

_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
_DECODER_SUFFIXES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


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
    return config, list(_judge_config(directory, config))


def text_config(config: Config) -> Config:
    """The part of a config that has the language model's sizes: a nested one where there is one."""
    nested = (config.get(name) for name in _TEXT_CONFIGS)
    return next((part for part in nested if isinstance(part, dict)), config)


def first_int(config: Config, *names: str) -> int | None:
    """The first of `names` that is a whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int), None)


def architecture_of(config: Config) -> str:
    """The first of the config's `architectures`, else `unknown`."""
    names = config.get("architectures")
    return shown(names[0]) if isinstance(names, list) and names else "unknown"


def _judge_config(directory: Path, config: Config) -> Iterator[Finding]:
    yield from _judge_code(directory, config)
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


def _judge_code(directory: Path, config: Config) -> Iterator[Finding]:
    """Code that a model asks for; in nested configs too, as CVE-2026-22807 had it."""
    entries = list(_walk(config))
    if any(key == "auto_map" and value for key, value in entries):
        files = [name for name in sorted(os.listdir(directory)) if name.endswith(".py")]
        listed = f" ({shown_names(files)})" if files else ""
        yield fail(
            "REMOTE_CODE",
            f"config.json asks for Python code of the model's own{listed}: auto_map; it is never run",
            "running such code is not supported; use a revision of the model that transformers supports by itself. "
            f"If transformers knows the model type {shown(config['model_type'], 40)}, "
            "removing auto_map from config.json is enough",
        )
    kernels = [
        value for key, value in entries if "attn_implementation" in key and isinstance(value, str) and "/" in value
    ]
    if kernels:
        message = f"config.json asks for attention code from the Hub: {shown_names(kernels)}; it is never fetched"
        yield fail("REMOTE_CODE", message, "remove the _attn_implementation entries from config.json")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth; without recursion, as the depth is the file's choice."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from part.items()
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def judge_special_ids(directory: Path, config: Config, num_rows: int) -> Iterator[Finding]:
    """Ids of special tokens that the embedding of `num_rows` rows does not have."""
    sources = {"config.json": text_config(config)}
    if os.path.lexists(directory / "generation_config.json"):
        try:
            sources["generation_config.json"] = read_json_object(directory / "generation_config.json")
        except HubError as error:
            yield error.finding(Severity.WARN)
    for source, values in sources.items():
        for name in _SPECIAL_IDS:
            value = values.get(name)
            ids = value if isinstance(value, list) else [value]
            odd = [number for number in ids if type(number) is int and not 0 <= number < num_rows]
            if odd:
                message = f"{name} {shown(odd)} in {source} is not an id of the {num_rows:,} in the embedding"
                yield warn("SPECIAL_ID_OUT_OF_RANGE", message, f"correct {name} in {source}, or make it null")


def judge_vocab_size(config: Config, num_rows: int) -> Iterator[Finding]:
    """`vocab_size` against the rows that are there; loading needs both to be equal."""
    vocab_size = first_int(text_config(config), "vocab_size")
    if vocab_size is not None and vocab_size != num_rows:
        message = f"vocab_size in config.json is {vocab_size:,}, but the embedding has {num_rows:,} rows"
        yield warn("VOCAB_MISMATCH", message, "config.json and weights may be of different models: download again")

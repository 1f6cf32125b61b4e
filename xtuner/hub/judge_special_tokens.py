"""Special tokens: their ids against the embedding, and the end token against the chat template."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, Severity, shown, shown_names, warn
from xtuner.hub.judge_config import Config, text_config
from xtuner.hub.judge_tokenizer import TokenizerInfo
from xtuner.hub.regular_file import read_json_object

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GENERATION = "generation_config.json"


def judge_special_tokens(
    directory: Path, config: Config, num_rows: int | None, tokenizer: TokenizerInfo
) -> Iterator[Finding]:
    """Ids that the embedding of `num_rows` rows (None: unknown) does not have, and an end that no reply comes to."""
    sources: dict[str, Mapping[str, Any]] = {"config.json": text_config(config)}
    if os.path.lexists(directory / _GENERATION):
        try:
            sources[_GENERATION] = read_json_object(directory / _GENERATION)
        except HubError as error:
            yield error.finding(Severity.WARN)
    if num_rows is not None:
        for source, values in sources.items():
            yield from _judge_ids(source, values, num_rows)
    if tokenizer.chat_template:
        yield from _judge_end(_end_ids(config, sources), tokenizer)


def _judge_ids(source: str, values: Mapping[str, Any], num_rows: int) -> Iterator[Finding]:
    for name in _SPECIAL_IDS:
        odd = [number for number in _ids(values.get(name)) if not 0 <= number < num_rows]
        if odd:
            message = f"{name} {shown(odd)} in {source} is not an id of the {num_rows:,} in the embedding"
            yield warn("SPECIAL_ID_OUT_OF_RANGE", message, f"correct {name} in {source}, or make it null")


def _ids(value: Any) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]


def _end_ids(config: Config, sources: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """What generating stops at: generation_config.json goes before config.json, as in transformers."""
    values = [sources.get(_GENERATION, {}), sources["config.json"], config]
    return next(filter(None, (_ids(part.get("eos_token_id")) for part in values)), [])


def _judge_end(end_ids: list[int], tokenizer: TokenizerInfo) -> Iterator[Finding]:
    """A model learns to end its turns as the template does; whoever generates stops at the end token."""
    template = tokenizer.chat_template or ""
    if not end_ids and tokenizer.end_token is None:
        yield warn(
            "NO_END_TOKEN",
            "no end token is named (eos_token_id in generation_config.json or config.json)",
            f"put the id of the token that ends a reply into eos_token_id of {_GENERATION}",
        )
    ends = [tokenizer.added_tokens[number] for number in end_ids if number in tokenizer.added_tokens]
    is_written = any(end in template for end in ends) or ("eos_token" in template and tokenizer.end_token in ends)
    if ends and not is_written:
        yield warn(
            "END_TOKEN_NOT_IN_TEMPLATE",
            f"the chat template never writes an end token of the model ({shown_names(ends)}), "
            "so the trained model may not stop where its reply ends",
            f"put the id of the token that the template ends replies with into eos_token_id of {_GENERATION}",
        )

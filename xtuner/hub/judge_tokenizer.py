"""The tokenizer and the chat template of a model directory, as far as JSON tells; nothing is rendered."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, fail, shown, shown_names, shown_path, warn
from xtuner.hub.regular_file import MAX_JSON_BYTES, open_regular, read_json_object, unreadable

# Larger ones exist in theory only; parsing them would take seconds.
_MAX_TOKENIZER_BYTES = 200 * 2**20
_SLOW_FILES = {
    "tokenizer.model": "SentencePiece",
    "spiece.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
    "tekken.json": "Tekken",
    "vocab.json": "BPE",
    "vocab.txt": "WordPiece",
    "tiktoken.model": "tiktoken",
    "qwen.tiktoken": "tiktoken",
}
_TEMPLATES_DIR = "additional_chat_templates"
_NAMES_OF_SPECIAL_TOKENS = ("bos_token", "eos_token")


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer of a model directory.

    Attributes:
        kind: in words; None: there is none.
        chat_template: the source of the template that training uses, or None.
        added_tokens: id to content of the tokens beside the vocabulary, special ones among them.
        end_token: content of tokenizer_config.json's `eos_token`, or None.
        findings: what was found.
    """

    kind: str | None
    chat_template: str | None
    added_tokens: dict[int, str]
    end_token: str | None
    findings: tuple[Finding, ...]


def judge_tokenizer(
    directory: Path, num_rows: int | None, *, needs_tokenizer: bool, needs_chat_template: bool
) -> TokenizerInfo:
    """Judge the tokenizer against the `num_rows` rows of the embedding (None: unknown)."""
    findings: list[Finding] = []
    config, template = {}, None
    try:
        config = _read_if_there(directory / "tokenizer_config.json")
        template = _chat_template(directory, config)
    except HubError as error:
        if needs_tokenizer or needs_chat_template:
            findings.append(error.finding())
    if needs_chat_template and not template and not findings:
        findings.append(_explain_no_template(directory, config))
    kind, tokenizer, problem = _read_tokenizer(directory)
    if needs_tokenizer:
        findings += [problem] if problem else _judge_ids(directory, tokenizer, config, template or "", num_rows)
    return TokenizerInfo(kind, template, _added_tokens(tokenizer), _content(config.get("eos_token")), tuple(findings))


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json_object(path, unique_keys=False) if os.path.lexists(path) else {}


def _chat_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The template that training uses: chat_template.jinja, else the one in tokenizer_config.json.

    Raises:
        HubError: the file is there and cannot be read.
    """
    path = directory / "chat_template.jinja"
    if os.path.lexists(path):
        with open_regular(path) as file:
            try:
                source = file.read(MAX_JSON_BYTES).decode("utf-8")
            except OSError as error:
                raise unreadable(path, error) from None
            except UnicodeDecodeError:
                message = f"{shown_path(path)} is not UTF-8 text"
                raise HubError("NO_CHAT_TEMPLATE", message, hint="download this file again") from None
        return source if source.strip() else None
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = entries[-1].get("template") if entries else None
    return template if isinstance(template, str) and template.strip() else None


def _explain_no_template(directory: Path, tokenizer_config: dict[str, Any]) -> Finding:
    message = f"{shown_path(directory)} has no chat template, so chats cannot be shown to the model"
    hint = "train the chat (instruct) variant of the model, or put its chat_template.jinja into the directory"
    if os.path.lexists(directory / "chat_template.json"):
        message = f"{shown_path(directory)} has a chat template only in chat_template.json, which is for processors"
        hint = "write the text of its chat_template into a file chat_template.jinja beside it"
    elif names := _template_names(directory, tokenizer_config):
        message = f"{shown_path(directory)} has chat templates, but none is called default: {shown_names(names)}"
        hint = "write the one you want into a file chat_template.jinja in the directory"
    return fail("NO_CHAT_TEMPLATE", message, hint)


def _template_names(directory: Path, tokenizer_config: dict[str, Any]) -> list[str]:
    """The templates that have a name, in tokenizer_config.json or as files of their own."""
    entries = tokenizer_config.get("chat_template")
    named = [entry.get("name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    files: list[str] = []
    if os.path.isdir(directory / _TEMPLATES_DIR):
        files = [name for name in sorted(os.listdir(directory / _TEMPLATES_DIR)) if name.endswith(".jinja")]
    return [*(name for name in named if isinstance(name, str)), *(f"{_TEMPLATES_DIR}/{name}" for name in files)]


def _read_tokenizer(directory: Path) -> tuple[str | None, dict[str, Any], Finding | None]:
    """What kind of tokenizer there is, the content of tokenizer.json, and what is wrong with it."""
    path = directory / "tokenizer.json"
    if not os.path.lexists(path):
        slow = next((name for name in _SLOW_FILES if os.path.isfile(directory / name)), None)
        if slow is None:
            hint = "download the tokenizer files of the model, or pass --tokenizer-path DIR"
            return None, {}, fail("NO_TOKENIZER", f"{shown_path(directory)} has no tokenizer.json", hint)
        message = f"{shown_path(directory)} has {slow} but no tokenizer.json, which training reads"
        hint = "convert it once: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of transformers"
        return f"{_SLOW_FILES[slow]} ({slow})", {}, fail("TOKENIZER_NOT_FAST", message, hint)
    try:
        tokenizer = read_json_object(path, max_bytes=_MAX_TOKENIZER_BYTES, unique_keys=False)
    except HubError as error:
        return "tokenizer.json", {}, None if error.code == "JSON_TOO_LARGE" else error.finding()
    model = tokenizer.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        message = f"{shown_path(path)} has no vocabulary: it is not a tokenizer"
        return "tokenizer.json", {}, fail("TOKENIZER_BROKEN", message, "download this file again")
    return f"{shown(model.get('type') or 'unknown', 20)} (tokenizer.json)", tokenizer, None


def _judge_ids(
    directory: Path, tokenizer: dict[str, Any], config: dict[str, Any], template: str, num_rows: int | None
) -> Iterator[Finding]:
    """Ids past the embedding: on a GPU they end in a device-side assert (huggingface/transformers#1848)."""
    if not tokenizer or num_rows is None:
        return
    vocab = tokenizer["model"]["vocab"]
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    largest = max((number for number in ids if type(number) is int), default=-1)
    added = tokenizer.get("added_tokens")
    added = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    outside = [token for token in added if type(token.get("id")) is int and token["id"] >= num_rows]
    used = [token for token in outside if not token.get("special") or _is_used(token, config, template)]
    largest = max([largest, *(token["id"] for token in used)])
    if largest >= num_rows:
        message = f"{shown_path(directory)}: the tokenizer gives ids up to {largest:,}"
        yield fail(
            "TOKENIZER_TOO_LARGE",
            f"{message}, but the embedding has only {num_rows:,} rows",
            "tokenizer and weights belong to different models, or tokens were added without resizing the embedding",
        )
    elif outside:  # as in gemma-3-1b, a text model whose tokenizer knows a placeholder for images
        tokens = shown_names([str(token.get("content")) for token in outside])
        message = f"these special tokens have no row in the embedding of {num_rows:,} rows: {tokens}"
        yield warn("SPARE_TOKENS", message, "keep them out of the data; no chat needs them")


def _added_tokens(tokenizer: dict[str, Any]) -> dict[int, str]:
    added = tokenizer.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return {
        token["id"]: token["content"]
        for token in tokens
        if type(token.get("id")) is int and isinstance(token.get("content"), str) and token["content"]
    }


def _content(token: Any) -> str | None:
    """A special token of tokenizer_config.json: a text, or an object with one."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def _is_used(token: dict[str, Any], config: dict[str, Any], template: str) -> bool:
    content = token.get("content")
    if not isinstance(content, str):
        return True
    return content in template or content in [_content(config.get(name)) for name in _NAMES_OF_SPECIAL_TOKENS]

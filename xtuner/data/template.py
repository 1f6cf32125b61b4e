"""A model directory's tokenizer and chat template, as the data path needs them.

The tokenizer is `tokenizer.json` through the `tokenizers` library; templates render in transformers' sandbox
with the special tokens that transformers would give them. Neither loads torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.data.chat import Message
from xtuner.errors import DataError, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTemplate:
    """Turns messages into text the way the model directory says."""

    source: str
    special_tokens: dict[str, str]

    def render(self, messages: list[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of `messages`.

        Raises:
            DataError: the template refuses the messages or is broken; the message is the template's own.
        """
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                conversations=[messages],
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(
                f"the chat template refuses these messages: {error}",
                hint="order the roles as the model's template wants them",
            ) from None
        return str(rendered[0])


def load_tokenizer(directory: Path) -> "Tokenizer":
    """The `tokenizers.Tokenizer` of a model directory, without truncation or padding.

    Raises:
        ModelError: there is no readable `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{directory} has no tokenizer.json",
            hint="download the model's tokenizer files, or save them with AutoTokenizer.save_pretrained",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {error}", hint="download the file again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_chat_template(directory: Path) -> ChatTemplate:
    """The chat template of a model directory: `chat_template.jinja`, else the one in `tokenizer_config.json`.

    Raises:
        ModelError: there is none, or the files cannot be read.
    """
    config = _read_config(directory / "tokenizer_config.json")
    jinja_file = directory / "chat_template.jinja"
    source = jinja_file.read_text(encoding="utf-8") if jinja_file.is_file() else _embedded(config.get("chat_template"))
    if source is None:
        raise ModelError(
            f"{directory} has no chat template",
            hint="train the chat variant of this model, or put its chat_template.jinja into the directory",
        )
    return ChatTemplate(source, _special_tokens(config))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", hint="download the file again") from None
    return config if isinstance(config, dict) else {}


def _embedded(template: Any) -> str | None:
    """A string, or a list of named templates of which `default` counts."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: config.get(name) for name in _SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}

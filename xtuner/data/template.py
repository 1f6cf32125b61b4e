"""A model directory's tokenizer and chat template, as the data path needs them.

The tokenizer is `tokenizer.json` through the `tokenizers` library; templates render in transformers' sandbox
with the special tokens that transformers would give them. Neither loads torch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xtuner.data.chat import Message
from xtuner.data.problems import RowError
from xtuner.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Rendering(NamedTuple):
    """A rendered chat, and the character ranges that the template marks with `{% generation %}`, if it does."""

    text: str
    generated: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ChatTemplate:
    """Turns messages into text the way the model directory says."""

    source: str
    special_tokens: dict[str, str]

    def render(
        self, messages: list[Message], tools: list[Any] | None = None, *, add_generation_prompt: bool = False
    ) -> Rendering:
        """The text of `messages`.

        Raises:
            RowError: the template refuses the messages or is broken; the message is the template's own.
        """
        arguments = self.arguments(messages, tools)
        generated: list[tuple[int, int]] = []
        try:
            template = compiled(self.source)
            if add_generation_prompt:  # a prompt: what it marks is not asked for
                text = template.render(add_generation_prompt=True, **arguments)
            else:
                blocks: list[str] = []
                write_blocks(template, arguments, blocks, generated)
                text = "".join(blocks)
        except MemoryError:
            raise
        except RecursionError:
            raise RowError(
                "TEMPLATE_REFUSED", "the chat template calls itself without end", hint="mend the template"
            ) from None
        except Exception as error:  # its own refusal, and whatever else a template comes up with
            raise RowError(
                "TEMPLATE_REFUSED",
                f"the chat template refuses these messages: {str(error)[:500]}",
                hint="order the roles as the model's template wants them",
            ) from None
        return Rendering(with_bytes(text), tuple(generated))

    def arguments(self, messages: Any, tools: list[Any] | None) -> dict[str, Any]:
        """What a template is rendered with, but for `add_generation_prompt`."""
        return {"messages": messages, "tools": tools, "documents": None, **self.special_tokens}

    @cached_property
    def special_items(self) -> tuple[tuple[str, str], ...]:
        """The special tokens, as a key."""
        return tuple(self.special_tokens.items())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides a rendering, in hex."""
        return sha256(json.dumps([self.source, self.special_tokens], sort_keys=True).encode()).hexdigest()


def write_blocks(template: Any, arguments: dict[str, Any], blocks: list[str], generated: list[tuple[int, int]]) -> None:
    """Render a compiled template without a generation prompt.

    Args:
        template: of `compiled`, or of its environment.
        arguments: see `ChatTemplate.arguments`.
        blocks: takes the text up, piece by piece as the template writes it.
        generated: takes up the character ranges that it marks with `{% generation %}`.
    """
    with template.environment.activate_tracker(blocks, generated):
        # The tracker of `{% generation %}` counts the characters of the blocks so far.
        for block in template.generate(add_generation_prompt=False, **arguments):
            blocks.append(block)


def with_bytes(text: str) -> str:
    """`text`, which a template has written.

    Raises:
        RowError: it holds half of a surrogate pair, which has no bytes to train on.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(
                "TEMPLATE_REFUSED", "the chat template writes half of a surrogate pair", hint="mend the template"
            ) from None
    return text


@lru_cache(maxsize=4)
def compiled(source: str) -> Any:
    """The template in transformers' sandbox.

    Not through `render_jinja_template`, which copies all messages and searches the template's source at each call:
    rows were read from JSON and hold plain types alone.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = _compile_jinja_template(source)
    template.globals = dict(template.globals)  # a chain of maps, which each rendering would copy name by name
    template.environment.getattr = _dict_reader(template.environment)
    return template


# `message.keys` is the method, whatever a message holds.
_DICT_ATTRIBUTES = frozenset(dir(dict))


def _dict_reader(environment: Any) -> Callable[[Any, str], Any]:
    """The sandbox's way to read `message.role`, which looks for an attribute first: a dict has none but its own."""
    read_any, undefined = partial(type(environment).getattr, environment), environment.undefined

    def read(value: Any, name: str) -> Any:
        if type(value) is not dict or name in _DICT_ATTRIBUTES:
            return read_any(value, name)
        return value[name] if name in value else undefined(obj=value, name=name)

    return read


@dataclass(frozen=True)
class TokenizerFiles:
    """What a model directory says about text: tokenizer, chat template, the ids of the special tokens."""

    directory: Path
    tokenizer: "Tokenizer"
    template: ChatTemplate | None
    bos_id: int | None
    eos_id: int | None

    @classmethod
    def load(cls, directory: Path, chat_template: Path | None = None) -> "TokenizerFiles":
        """Read them; a missing chat template is an error only where one is needed.

        Raises:
            ModelError: files that cannot be read.
            UsageError: `chat_template` cannot be read.
        """
        tokenizer = load_tokenizer(directory)
        special = _special_tokens(_read_config(directory / "tokenizer_config.json"))
        has_template = chat_template is not None or own_template(directory) is not None
        return cls(
            directory,
            tokenizer,
            load_chat_template(directory, chat_template) if has_template else None,
            tokenizer.token_to_id(special["bos_token"]) if "bos_token" in special else None,
            tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None,
        )

    def require_template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            ModelError: there is none.
        """
        return self.template or load_chat_template(self.directory)


def load_tokenizer(directory: Path) -> "Tokenizer":
    """The `tokenizers.Tokenizer` of a model directory, without truncation or padding.

    Raises:
        ModelError: there is no readable `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise _no_tokenizer(directory)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {error}", hint="download the file again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _keep_blanks_in_offsets(tokenizer)
    return tokenizer


def _keep_blanks_in_offsets(tokenizer: "Tokenizer") -> None:
    """Let a token's character range cover its blanks (GPT-2's and Llama 3's post-processors cut them off).

    Changes no ids; which tokens lie inside a reply is told by these ranges.
    """
    processor = tokenizer.post_processor
    if processor is None:
        return
    state = json.loads(processor.__getstate__())
    steps = [step for step in state.get("processors", [state]) if step.get("trim_offsets")]
    if steps:
        for step in steps:
            step["trim_offsets"] = False
        processor.__setstate__(json.dumps(state).encode())
        tokenizer.post_processor = processor


def _no_tokenizer(directory: Path) -> ModelError:
    return ModelError(
        f"{directory} has no tokenizer.json",
        hint="download the model's tokenizer files, or save them with AutoTokenizer.save_pretrained",
    )


def load_chat_template(directory: Path, override: Path | None = None) -> ChatTemplate:
    """The chat template of a model directory: `chat_template.jinja`, else the one in `tokenizer_config.json`.

    Args:
        directory: where the special tokens come from, too.
        override: a file with another template to use instead.

    Raises:
        ModelError: there is none, or the files cannot be read.
        UsageError: `override` cannot be read.
    """
    config = _read_config(directory / "tokenizer_config.json")
    source = own_template(directory) if override is None else _read_override(override)
    if source is None:
        raise ModelError(
            f"{directory} has no chat template",
            hint="train the chat variant of this model, or put its chat_template.jinja into the directory",
        )
    return ChatTemplate(source, _special_tokens(config))


def own_template(directory: Path) -> str | None:
    """The text of the template that comes with a model directory; None when there is none."""
    jinja_file = directory / "chat_template.jinja"
    if not jinja_file.is_file():
        return _embedded(_read_config(directory / "tokenizer_config.json").get("chat_template"))
    try:
        return jinja_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{jinja_file} cannot be read: {error}", hint="download the file again") from None


def _read_override(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"the chat template {path} cannot be read: {reason}", hint="pass a Jinja file to --chat-template"
        ) from None


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
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: config.get(name) for name in _SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def tokenizer_fingerprint(directory: Path, chat_template: Path | None = None) -> str:
    """SHA-256 of all that decides the tokens of a chat: tokenizer.json, special tokens, chat template; in hex.

    Raises:
        ModelError: there is no tokenizer.json.
        UsageError: `chat_template` cannot be read.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise _no_tokenizer(directory)
    template = own_template(directory) if chat_template is None else _read_override(chat_template)
    special = _special_tokens(_read_config(directory / "tokenizer_config.json"))
    digest = sha256(path.read_bytes())
    digest.update(json.dumps([template, special], sort_keys=True).encode())
    return digest.hexdigest()

"""`ChatModel`: a loaded model, its tokenizer and its chat template, which answers messages."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from xtuner.data.chat import Message
from xtuner.data.problems import RowError
from xtuner.data.template import TokenizerFiles
from xtuner.errors import EnvironmentFault, ModelError, UsageError
from xtuner.v1.chat.text import CLOSE_TAG, OPEN_TAG, Piece, ReasoningSplitter, TextStream, parted

DEFAULT_MAX_NEW_TOKENS = 1024
OnPiece = Callable[[Piece], None]
Stop = Literal["end", "length", "interrupted"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None is what the model's generation_config.json says.

    Attributes:
        max_new_tokens: longest reply.
        temperature: 0 always takes the most likely token.
        top_p: only the most likely tokens that have this much probability together.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Prompt:
    """What the model is shown: its tokens, and whether the template has opened a `<think>` at the end."""

    ids: list[int]
    opens_reasoning: bool


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: without its reasoning.
        reasoning: without the tags around it.
        num_prompt_tokens: tokens it was shown.
        num_tokens: tokens it gave, the end token too.
        seconds: from prompt to end.
        stop: "end" by its own end token, "length" by a limit, "interrupted" by Ctrl-C.
    """

    text: str
    reasoning: str
    num_prompt_tokens: int
    num_tokens: int
    seconds: float
    stop: Stop

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return not self.text and not self.reasoning


class ChatModel:
    """Answers messages by `transformers`' own `generate`.

    Args:
        model: loaded, on its device.
        files: tokenizer and chat template as training reads them.
    """

    def __init__(self, model: PreTrainedModel, files: TokenizerFiles) -> None:
        self._model = model
        self._tokenizer = files.tokenizer
        self._template = files.require_template()
        self._own_config: GenerationConfig = model.generation_config
        self._stop_ids = _stop_ids(self._own_config, files)
        # Special tokens are not text, but tags around reasoning are, in whatever way a tokenizer has them.
        self._hidden_ids = {
            token_id
            for token_id, token in files.tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content not in (OPEN_TAG, CLOSE_TAG)
        }

    @cached_property
    def context_length(self) -> int | None:
        """Tokens that the model can look at, by its config; None where it says nothing."""
        config = self._model.config.get_text_config()
        length = getattr(config, "max_position_embeddings", None)
        return length if isinstance(length, int) and length > 0 else None

    def max_new_tokens(self, sampling: Sampling) -> int:
        """The longest reply, by flag, generation_config.json or `DEFAULT_MAX_NEW_TOKENS`."""
        return sampling.max_new_tokens or self._own_config.max_new_tokens or DEFAULT_MAX_NEW_TOKENS

    def history_limit(self, sampling: Sampling) -> int | None:
        """Tokens that a prompt may have so that a reply has room behind it: at least half of the context for both."""
        if self.context_length is None:
            return None
        return self.context_length - min(self.max_new_tokens(sampling), self.context_length // 2)

    def prompt(self, messages: list[Message]) -> Prompt:
        """`messages` as the model is shown them, tokenised as in training.

        Raises:
            UsageError: the chat template refuses a system message.
            ModelError: it refuses the others, too.
        """
        try:
            text = self._template.render(messages, add_generation_prompt=True).text
        except RowError as error:
            if messages[0]["role"] == "system":
                raise UsageError(error.message, hint="try without a system message") from None
            raise ModelError(error.message, hint="mend chat_template.jinja in the model directory") from None
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return Prompt(ids, opens_reasoning=text.rstrip().endswith(OPEN_TAG))

    def reply(self, prompt: Prompt, sampling: Sampling, on_piece: OnPiece) -> Reply:
        """Generate a reply; `on_piece` is given each piece of it as soon as it is certain.

        Ctrl-C (`KeyboardInterrupt`) ends the reply and is not raised.

        Raises:
            UsageError: the prompt leaves no room in the context.
            EnvironmentFault: the device has not enough memory.
        """
        listener = _Listener(self._decode, self._stop_ids, on_piece, opens_reasoning=prompt.opens_reasoning)
        max_new_tokens = self.room(prompt, sampling)
        begin = time.perf_counter()
        try:
            try:
                self._generate(prompt, self._generation_config(sampling, max_new_tokens), listener)
                stop: Stop = "end" if listener.has_ended else "length"
            except KeyboardInterrupt:
                stop = "interrupted"
            listener.finish()
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error) from None
        text, reasoning = parted(listener.pieces)
        seconds = time.perf_counter() - begin
        return Reply(text, reasoning, len(prompt.ids), listener.num_tokens, seconds, stop)

    def room(self, prompt: Prompt, sampling: Sampling) -> int:
        """Tokens that a reply to `prompt` may have.

        Raises:
            UsageError: the context has no room behind the prompt.
        """
        wanted = self.max_new_tokens(sampling)
        if self.context_length is None:
            return wanted
        if len(prompt.ids) >= self.context_length:
            raise UsageError(
                f"the question has {len(prompt.ids):,} tokens with all around it, "
                f"the model's context {self.context_length:,}",
                hint="ask something shorter",
            )
        return min(wanted, self.context_length - len(prompt.ids))

    def _generate(self, prompt: Prompt, config: GenerationConfig, listener: "_Listener") -> None:
        ids = torch.tensor([prompt.ids], device=self._model.device)
        with torch.inference_mode():
            self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=listener)

    def _generation_config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        """The model's own, with what the flags say; without what it says about sampling where there is none."""
        config = copy.deepcopy(self._own_config)
        config.max_new_tokens, config.max_length, config.min_length = max_new_tokens, None, None
        config.eos_token_id = sorted(self._stop_ids) or None
        if config.pad_token_id is None and self._stop_ids:  # there is nothing to pad; it spares a warning
            config.pad_token_id = min(self._stop_ids)
        if sampling.temperature is not None:
            config.do_sample, config.temperature = sampling.temperature > 0, sampling.temperature or None
        if sampling.top_p is not None and sampling.temperature != 0:
            config.do_sample, config.top_p = True, sampling.top_p
        if not config.do_sample:
            for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
                setattr(config, name, None)
        return config

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i not in self._hidden_ids], skip_special_tokens=False)


class _Listener(BaseStreamer):
    """Hears each token from `generate`; keeps the pieces of text and passes them on."""

    def __init__(
        self, decode: Callable[[list[int]], str], stop_ids: set[int], on_piece: OnPiece, *, opens_reasoning: bool
    ) -> None:
        self.pieces: list[Piece] = []
        self.num_tokens = 0
        self.has_ended = False
        self._stop_ids = stop_ids
        self._on_piece = on_piece
        self._stream = TextStream(decode)
        self._splitter = ReasoningSplitter(is_open=opens_reasoning)
        self._heard_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then one token a call."""
        if not self._heard_prompt:
            self._heard_prompt = True
            return
        [token_id] = value.flatten().tolist()
        self.num_tokens += 1
        self.has_ended = token_id in self._stop_ids
        if not self.has_ended:
            self._pass_on(self._splitter.push(self._stream.push(token_id)))

    def end(self) -> None:
        """Called by `generate`; nothing to do, as `finish` is called after an interruption, too."""

    def finish(self) -> None:
        """Pass on what was held back."""
        self._pass_on([*self._splitter.push(self._stream.finish()), *self._splitter.finish()])

    def _pass_on(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self.pieces.append(piece)
            self._on_piece(piece)


def _stop_ids(config: GenerationConfig, files: TokenizerFiles) -> set[int]:
    """The end tokens of generation_config.json, of the tokenizer, and the one with which the template ends a turn.

    A base model that was trained on chats ends its turns as its template says; its generation_config.json often
    still knows the end of a document alone.
    """
    own: Any = config.eos_token_id
    ids = set(own) if isinstance(own, list | tuple) else {own}
    return {i for i in (*ids, files.eos_id, _end_of_turn(files)) if i is not None}


def _end_of_turn(files: TokenizerFiles) -> int | None:
    """The special token that the chat template puts behind a reply."""
    said = "REPLY"
    messages: list[Message] = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": said}]
    try:
        text = files.require_template().render(messages).text
    except RowError:
        return None
    behind = text.rpartition(said)[2].lstrip()
    first = next(iter(files.tokenizer.encode(behind, add_special_tokens=False).ids), None)
    token = files.tokenizer.get_added_tokens_decoder().get(first) if first is not None else None
    return first if token is not None and token.special else None


def set_seed(seed: int | None) -> None:
    """Let replies be the same each time, or, with None, never: PyTorch by itself draws the same in each process."""
    if seed is None:
        torch.seed()
    else:
        torch.manual_seed(seed)


def out_of_memory(error: Exception) -> EnvironmentFault:
    """The model does not fit: what the device says, and what takes less."""
    return EnvironmentFault(
        f"not enough memory on the device: {str(error).splitlines()[0]}",
        hint="use --dtype bfloat16, or --device cpu",
    )

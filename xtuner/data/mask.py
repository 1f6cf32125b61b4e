"""Which characters of a rendered chat the model is trained on: what the assistant says, plus its end of turn.

The span of a reply is found by rendering prefixes: `prompt` is the text at inference before the reply (with the
generation prompt), `full` the text with the reply. Whatever the template adds to a reply lies between the two, so
no template has to be known by name. Where the template itself marks text with `{% generation %}`, that is trained.

Some templates show an earlier reply differently once the chat goes on (Qwen3 strips its thinking). Then the later
text does not begin with the earlier one, and the chat becomes several sequences: each reply is trained in the
very text that the model sees when it gives that reply, and only once.
"""

import itertools
from dataclasses import dataclass, replace

from xtuner.data.chat import Chat, Message
from xtuner.data.options import MaskPolicy
from xtuner.data.prefixes import ChatPrefixes
from xtuner.data.problems import RowError
from xtuner.data.template import ChatTemplate, Rendering


@dataclass(frozen=True)
class MaskedText:
    """One sequence of a row: `text`, and the character spans of it that are trained, in order.

    Attributes:
        text: what is tokenised.
        spans: character ranges, ascending, without overlap.
        stops: for each span, how far its reply's message goes: beyond the span where the template's
            `{% generation %}` leaves out the end-of-turn token.
        is_whole: everything is trained, whatever the spans.
        is_document: plain text, not a rendered chat: the tokenizer adds its beginning and end.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    stops: tuple[int, ...] = ()
    is_whole: bool = False
    is_document: bool = False

    def apart(self, index: int) -> "list[MaskedText]":
        """The same spans in several texts, with span `index` alone in one of them."""
        edges = itertools.pairwise(sorted({0, index, index + 1, len(self.spans)}))
        return [self._part(first, last) for first, last in edges]

    def _part(self, first: int, last: int) -> "MaskedText":
        text = self.text if last == len(self.spans) else self.text[: self.stops[last - 1]]
        return MaskedText(text, self.spans[first:last], self.stops[first:last])


def trained_turns(chat: Chat, policy: MaskPolicy) -> list[int]:
    """The assistant messages that are trained: those of the policy, unless the row itself says otherwise."""
    turns = chat.assistant_turns
    by_policy = turns[-1:] if policy == "last-assistant" else turns
    if not any(said is not None for said in chat.losses):
        return by_policy
    says, by_default = dict(enumerate(chat.losses)), set(by_policy)
    return [turn for turn in turns if (turn in by_default if says.get(turn) is None else says[turn])]


def mask_chat(chat: Chat, template: ChatTemplate, policy: MaskPolicy = "all-assistant") -> list[MaskedText]:
    """The training sequences of `chat`; an empty list when it has no reply to train.

    Raises:
        RowError: the template refuses the chat, or a reply does not continue its own prompt in the rendering,
            so that what belongs to it cannot be proved.
    """
    if policy == "full":
        if False in chat.losses:
            raise RowError(
                "BAD_LOSS",
                f"{chat.where}: message {chat.losses.index(False)} is not to be trained, "
                "and --mask-policy full trains all",
                hint="choose --mask-policy all-assistant, or take the switch out of the row",
            )
        return [MaskedText(_render(chat, template).text, is_whole=True)]
    turns = trained_turns(chat, policy)
    if not turns:
        return []
    prefixes = ChatPrefixes(template, chat.messages[: turns[-1] + 1], chat.tools)
    texts: list[str] = []
    spans: list[list[tuple[int, int]]] = []
    stops: list[list[int]] = []
    for turn in turns:
        prompt, full = _before_and_after(chat, prefixes, turn)
        full = _behind_its_prompt(chat, template, turn, prompt, full)
        if texts and full.text.startswith(texts[-1]):
            texts[-1] = full.text
        else:
            texts.append(full.text)
            spans.append([])
            stops.append([])
        of_reply = _reply_spans(chat, turn, prompt, full)
        spans[-1] += of_reply
        stops[-1] += (*(end for _, end in of_reply[:-1]), len(full.text))
    return [MaskedText(*parts) for parts in zip(texts, map(tuple, spans), map(tuple, stops), strict=True)]


def _behind_its_prompt(chat: Chat, template: ChatTemplate, turn: int, prompt: str, full: Rendering) -> Rendering:
    """`full`, which begins with `prompt`.

    A reply can change how the messages before it are shown: GPT-OSS drops the thoughts that led to a tool call once
    the answer is there, Mistral 7B v0.3 shows the system text beside a last question alone. When `full` begins with
    the prompt of the same chat without the one or the other, what stands behind that is the reply; it is trained
    behind the prompt that it is given to.
    """
    if full.text.startswith(prompt):
        return full
    before = chat.messages[:turn]
    bare_chats = (
        [_without_reasoning(message) for message in before],
        [message for message in before if message["role"] not in ("system", "developer")],
    )
    for messages in bare_chats:
        bare = replace(chat, messages=messages)
        try:
            bare_prompt = _render(bare, template, add_generation_prompt=True).text
        except RowError:  # the template refuses a chat that nobody has
            continue
        if full.text.startswith(bare_prompt):
            cut, moved = len(bare_prompt), len(prompt) - len(bare_prompt)
            generated = tuple((first + moved, last + moved) for first, last in full.generated if first >= cut)
            return Rendering(prompt + full.text[cut:], generated)
    raise _unproved(chat, turn, prompt, full.text)


def _without_reasoning(message: Message) -> Message:
    return {key: value for key, value in message.items() if key not in ("reasoning_content", "thinking")}


def hidden_content(chat: Chat, sequences: list[MaskedText], policy: MaskPolicy) -> list[str]:
    """What the row says and no sequence shows, as phrases: "message 1: its reasoning".

    Messages after the last trained reply are prompts without an answer, and left out knowingly.
    """
    hidden = []
    last = max(trained_turns(chat, policy), default=-1)
    is_shown = _Shown([sequence.text for sequence in sequences])

    def is_hidden(text: str) -> bool:
        return bool(text) and not is_shown(text)

    for i, message in enumerate(chat.messages[: last + 1]):
        for key, what in (("content", "its content"), ("reasoning_content", "its reasoning")):
            if is_hidden(message.get(key, "").strip()):
                hidden.append(f"message {i}: {what}")
        for call in message.get("tool_calls", ()):
            if is_hidden(call["function"]["name"]):
                hidden.append(f"message {i}: its call of {call['function']['name']}")
    names = [tool.get("function", tool).get("name") for tool in chat.tools or ()]
    hidden += [f"the tool {name}" for name in names if isinstance(name, str) and last >= 0 and is_hidden(name)]
    return hidden


class _Shown:
    """Whether texts stand in `sequences`; fast when they are asked for in the order in which they stand there."""

    def __init__(self, sequences: list[str]) -> None:
        self._sequences = sequences
        self._place = 0  # in the last sequence, behind what was found there last

    def __call__(self, text: str) -> bool:
        whole = self._sequences[-1] if self._sequences else ""
        # Most stand right behind, where their beginning is soon found: no search through all of a long chat.
        place = whole.find(text[:_BEGINNING], self._place)
        if place >= 0 and whole.startswith(text, place):
            self._place = place + len(text)
            return True
        return any(text in sequence for sequence in self._sequences)


_BEGINNING = 32  # characters


def _reply_spans(chat: Chat, turn: int, prompt: str, full: Rendering) -> tuple[tuple[int, int], ...]:
    if not full.generated:
        return ((len(prompt), len(full.text)),)
    begin = len(prompt)
    spans = tuple((max(first, begin), last) for first, last in full.generated if first >= begin or last > begin)
    shown, said = "".join(full.text[first:last] for first, last in spans), chat.messages[turn]["content"].strip()
    is_missed = said not in shown and said in full.text[begin:]
    if not spans or is_missed or not full.text[spans[0][0] :].strip():
        raise RowError(
            "MASK_UNPROVED",
            f"{chat.where}: message {turn}: the chat template marks replies with {{% generation %}}, but no text of "
            f"this one: {full.text[begin : begin + 60]!r}",
            hint="put the reply and its end-of-turn token between {% generation %} and {% endgeneration %}",
        )
    return spans


def _before_and_after(chat: Chat, prefixes: ChatPrefixes, turn: int) -> tuple[str, Rendering]:
    """The text at inference before reply `turn`, and the rendering with it."""
    try:
        return prefixes.render(turn, add_generation_prompt=True).text, prefixes.render(turn + 1)
    except RowError as error:
        raise _placed(chat, error) from None


def _render(chat: Chat, template: ChatTemplate, *, add_generation_prompt: bool = False) -> Rendering:
    try:
        return template.render(chat.messages, chat.tools, add_generation_prompt=add_generation_prompt)
    except RowError as error:
        raise _placed(chat, error) from None


def _placed(chat: Chat, error: RowError) -> RowError:
    return RowError(error.code, f"{chat.where}: {error.message}", hint=error.hint)


def _unproved(chat: Chat, turn: int, prompt: str, full: str) -> RowError:
    same = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    return RowError(
        "MASK_UNPROVED",
        f"{chat.where}: message {turn}: the chat template does not show this reply as a continuation of its prompt, "
        f"so its loss mask cannot be proved\n"
        f"  the prompt goes on: {prompt[same : same + 60]!r}\n"
        f"  with the reply:     {full[same : same + 60]!r}",
        hint="use a chat template whose generation prompt is the beginning of its assistant turns "
        "(--chat-template FILE)",
    )

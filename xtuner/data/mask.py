"""Which characters of a rendered chat the model is trained on: what the assistant says, plus its end of turn.

The span of a reply is found by rendering prefixes: `prompt` is the text at inference before the reply (with the
generation prompt), `full` the text with the reply. Whatever the template adds to a reply lies between the two, so
no template has to be known by name.

Some templates show an earlier reply differently once the chat goes on (Qwen3 strips its thinking). Then the later
text does not begin with the earlier one, and the chat becomes several sequences: each reply is trained in the
very text that the model sees when it gives that reply, and only once.
"""

from dataclasses import dataclass, replace

from xtuner.data.chat import Chat
from xtuner.data.template import ChatTemplate
from xtuner.errors import DataError


@dataclass(frozen=True)
class MaskedText:
    """One sequence of a chat: `text`, and the character spans of it that are trained, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


def mask_chat(chat: Chat, template: ChatTemplate) -> list[MaskedText]:
    """The training sequences of `chat`; an empty list when it has no assistant turn.

    Raises:
        DataError: the template refuses the chat, or a reply does not continue its own prompt in the rendering,
            so that what belongs to it cannot be proved.
    """
    sequences: list[MaskedText] = []
    for turn in chat.assistant_turns:
        prompt = _render(chat, template, turn, add_generation_prompt=True)
        full = _render(chat, template, turn + 1, add_generation_prompt=False)
        if not full.startswith(prompt):
            raise _unproved(chat, turn, prompt, full)
        span = (len(prompt), len(full))
        if sequences and full.startswith(sequences[-1].text):
            sequences[-1] = MaskedText(full, (*sequences[-1].spans, span))
        else:
            sequences.append(MaskedText(full, (span,)))
    return sequences


def end_at_last_special(masked: MaskedText, special_ends: list[int]) -> MaskedText:
    """Cut each span behind its last special token when only blanks follow: the line break after `<|im_end|>` is
    layout that the model never has to produce.

    `special_ends` are the character positions, ascending, where special tokens of `masked.text` end.
    """

    def cut(span: tuple[int, int]) -> tuple[int, int]:
        begin, end = span
        inside = [position for position in special_ends if begin < position <= end]
        if inside and not masked.text[inside[-1] : end].strip():
            return begin, inside[-1]
        return span

    return replace(masked, spans=tuple(cut(span) for span in masked.spans))


def _render(chat: Chat, template: ChatTemplate, num_messages: int, *, add_generation_prompt: bool) -> str:
    try:
        return template.render(chat.messages[:num_messages], add_generation_prompt=add_generation_prompt)
    except DataError as error:
        raise DataError(f"{chat.where}: {error.message}", hint=error.hint) from None


def _unproved(chat: Chat, turn: int, prompt: str, full: str) -> DataError:
    same = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    return DataError(
        f"{chat.where}: message {turn}: the chat template does not show this reply as a continuation of its prompt, "
        f"so its loss mask cannot be proved\n"
        f"  the prompt goes on: {prompt[same : same + 60]!r}\n"
        f"  with the reply:     {full[same : same + 60]!r}",
        hint="use a chat template whose generation prompt is the beginning of its assistant turns",
    )

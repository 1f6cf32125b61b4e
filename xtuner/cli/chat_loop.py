"""The conversation on a terminal: lines in, replies out, a few commands."""

import re
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from xtuner.cli import console
from xtuner.cli.chat_reply import answer
from xtuner.errors import XTunerError

if TYPE_CHECKING:
    from xtuner.v1.chat.conversation import Conversation
    from xtuner.v1.chat.model import ChatModel, Sampling

_PROMPT, _MORE = "> ", "… "
_QUOTES = '"""'
_HELP = """\
/reset        forget what was said; the system text stays
/system TEXT  tell the model TEXT before everything else; without TEXT, nothing
/undo         take back the last question and its reply
/help         this
/exit         leave (Ctrl-D, too)

A line that ends in \\ goes on in the next one; \"\"\" begins and ends a text of several lines.
Ctrl-C stops a reply; what was said until then counts as the reply."""


class ChatLoop:
    """Asks for lines until the person leaves.

    Args:
        model: who replies.
        conversation: where it begins.
        sampling: how tokens are chosen.
    """

    def __init__(self, model: "ChatModel", conversation: "Conversation", sampling: "Sampling") -> None:
        self._model = model
        self._conversation = conversation
        self._sampling = sampling

    def run(self) -> None:
        """Talk until Ctrl-D or `/exit`."""
        _edit_lines()
        console.say("/help says what there is besides talking, Ctrl-D leaves")
        while True:
            try:
                text = _read_text()
            except KeyboardInterrupt:
                console.say("\n(nothing asked; Ctrl-D or /exit leaves)")
                continue
            except EOFError:
                console.say()
                return
            if _is_command(text):
                if text.split()[0] == "/exit":
                    return
                self._obey(text)
            elif text.strip():
                self._ask(text)

    def _ask(self, question: str) -> None:
        try:
            with _silent_keys():
                reply = answer(self._model, self._conversation, question, self._sampling, streams=True)
        except XTunerError as error:
            console.show_error(error)
            return
        except KeyboardInterrupt:
            console.say("(stopped; not asked)")
            return
        if reply.stop == "length":
            console.say(f"(cut after {reply.num_tokens:,} tokens; --max-new-tokens allows more)")
        elif reply.stop == "interrupted":
            console.say("(stopped; not asked)" if reply.is_empty else "(stopped)")

    def _obey(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        if name == "/help":
            console.say(_HELP)
        elif name == "/reset":
            self._conversation.reset()
            console.say("(all forgotten)")
        elif name == "/undo":
            turn = self._conversation.undo()
            console.say("(nothing to take back)" if turn is None else f"(taken back: {_shortened(turn.question)})")
        elif name == "/system":
            self._conversation.system = argument.strip() or None
            console.say("(system text set)" if self._conversation.system else "(no system text)")
        else:
            console.say(f"(no command {name}; /help lists them)")


def _is_command(text: str) -> bool:
    """A slash and one word: a path is something to talk about."""
    return re.match(r"/[a-z]+(\s|$)", text) is not None


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _read_text() -> str:
    r"""One line, or several: joined by a trailing `\`, or between triple quotes.

    Raises:
        EOFError: Ctrl-D.
    """
    line = input(_PROMPT)
    if line.lstrip().startswith(_QUOTES):
        return _read_quoted(line.lstrip().removeprefix(_QUOTES))
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(_MORE))
    return "\n".join(lines)


def _read_quoted(first: str) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(input(_MORE))
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    return "\n".join(lines).strip("\n")


@contextmanager
def _silent_keys() -> Iterator[None]:
    """Let keys, the ^C of Ctrl-C too, not be shown in the middle of a reply; what is typed counts afterwards."""
    before = termios.tcgetattr(sys.stdin)
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _edit_lines() -> None:
    """Arrow keys, history of this session, and pasted lines that stay one text; where Python has readline."""
    with suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")

"""The beginnings of one chat, each as the template would show it: from one rendering where that is the same.

A mask needs the text before each reply and with it; rendered one by one, a chat of a thousand turns runs through its
template a thousand times. But a template is a program, and until it asks for message k it cannot know whether there
is one: what it has written by then, it writes for the first k messages alone as well. So the whole chat is rendered
once, with messages that note what is asked of them and when. Where the template's last loop takes its next message,
and nothing before has looked that far, the text so far and what stands behind the loop are the shorter chat's text;
for that, what stands behind must depend on nothing but `add_generation_prompt`.

Beginnings where the template did look ahead (`loop.last`, `messages | length`, `messages[-1]`) are rendered alone, and
so is everything with a template that does not end in such a loop.
"""

import math
import operator
import secrets
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, NoReturn

from xtuner.data.chat import Message
from xtuner.data.problems import RowError
from xtuner.data.template import ChatTemplate, Rendering, compiled, with_bytes, write_blocks

NUM_VERIFIED = 64  # beginnings that are rendered alone as well before one rendering is trusted with them

# A template can name any filter (`map` takes a name from a string), but not guess these.
_EACH, _BEGIN, _END = (f"{name} {secrets.token_hex(8)}" for name in ("each turn", "turn begins", "turn ends"))
_WATCH = "watch_of_this_chat"


class _Watch:
    """What one rendering asks of its messages, and when.

    Attributes:
        blocks, generated: what it has written so far, see `write_blocks`.
        cuts: for a number of messages, how much of both there was when the last loop asked for one more.
        known: messages that were asked for, whether or not they are there; infinity for their number.
        is_in_turn: between the begin and the end of a turn of the last loop.
    """

    __slots__ = ("blocks", "cuts", "generated", "is_in_turn", "known", "messages")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.blocks: list[str] = []
        self.generated: list[tuple[int, int]] = []
        self.cuts: dict[int, tuple[int, int]] = {}
        self.known: float = 0
        self.is_in_turn = False

    def ask(self, index: float) -> None:
        """The template learns whether there is a message `index`; infinity: how many there are."""
        if index >= self.known:
            self.known = index + 1

    def turns(self, first: int) -> Iterator[Message]:
        """The messages from `first` on for the last loop, which asks at its head, or with `loop.last` in a turn."""
        index = first
        while True:
            if index >= self.known:
                if not self.is_in_turn:
                    self.cuts[index] = len(self.blocks), len(self.generated)
                self.known = index + 1
            if index >= len(self.messages):
                return
            yield self.messages[index]
            index += 1

    def begin_turn(self) -> None:
        """A turn of the last loop begins; one that ends with `continue` never says so, and proves nothing."""
        self.is_in_turn = True

    def end_turn(self) -> None:
        """The turn is over."""
        self.is_in_turn = False


class _WatchedMessages:
    """The messages from `first` on, as templates read a list; what a list can do besides is an error."""

    __slots__ = ("_first", "_watch")

    def __init__(self, watch: _Watch, first: int = 0) -> None:
        self._watch, self._first = watch, first

    def __iter__(self) -> Iterator[Message]:
        messages, index = self._watch.messages, self._first
        while True:
            self._watch.ask(index)
            if index >= len(messages):
                return
            yield messages[index]
            index += 1

    def turns(self) -> Iterator[Message]:
        """The messages for the template's last loop."""
        return self._watch.turns(self._first)

    def __bool__(self) -> bool:
        self._watch.ask(self._first)
        return len(self._watch.messages) > self._first

    def __len__(self) -> int:
        self._watch.ask(math.inf)
        return max(0, len(self._watch.messages) - self._first)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._part(place)
        index = operator.index(place)
        if index < 0:
            self._watch.ask(math.inf)
            return self._watch.messages[self._first :][index]
        self._watch.ask(self._first + index)
        return self._watch.messages[self._first + index]

    def _part(self, place: slice) -> Any:
        if place.stop is None and place.step in (None, 1) and (place.start or 0) >= 0:
            return _WatchedMessages(self._watch, self._first + (place.start or 0))
        self._watch.ask(math.inf)
        return self._watch.messages[self._first :][place]

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("not known of watched messages")

    __str__ = __repr__ = __format__ = __eq__ = __ne__ = __hash__ = _refuse


class ChatPrefixes:
    """Renders the first messages of one chat, for any number of them.

    Args:
        template: the chat template.
        messages, tools: the chat, up to the last message that will be asked for.
    """

    def __init__(self, template: ChatTemplate, messages: list[Message], tools: list[Any] | None) -> None:
        self._template, self._messages, self._tools = template, messages, tools
        self._one_pass = _one_pass(template.source, template.special_items)
        self._whole = self._one_pass.render(template, messages, tools) if self._one_pass else None

    def render(self, num_messages: int, *, add_generation_prompt: bool = False) -> Rendering:
        """The first `num_messages` messages, as `ChatTemplate.render` shows them alone.

        Raises:
            RowError: the template refuses them.
        """
        known = self._whole.beginning(num_messages, add_generation_prompt) if self._whole else None
        if known is not None and self._one_pass is not None and self._one_pass.num_verified >= NUM_VERIFIED:
            return known
        messages = self._messages[:num_messages]
        alone = self._template.render(messages, self._tools, add_generation_prompt=add_generation_prompt)
        if known is not None and self._one_pass is not None:
            self._one_pass.compare(known, alone)
        return alone


class _Whole:
    """A chat in one rendering.

    Args:
        watch: what the rendering asked.
        rendering: of all messages, without a generation prompt.
        tails: what stands behind the last message, without and with a generation prompt.
    """

    def __init__(self, watch: _Watch, rendering: Rendering, tails: tuple[str, str]) -> None:
        self._watch, self._rendering, self._tails = watch, rendering, tails
        self._ends = [0, *accumulate(map(len, watch.blocks))]

    def beginning(self, num_messages: int, add_generation_prompt: bool) -> Rendering | None:
        """The rendering of the first messages, where one of all of them shows it."""
        if num_messages == len(self._watch.messages) and not add_generation_prompt:
            return self._rendering
        if num_messages not in self._watch.cuts:
            return None
        num_blocks, num_generated = self._watch.cuts[num_messages]
        text = self._rendering.text[: self._ends[num_blocks]] + self._tails[add_generation_prompt]
        return Rendering(text, () if add_generation_prompt else self._rendering.generated[:num_generated])


class _OnePass:
    """A chat template that tells when it takes which message; make it with `_one_pass`.

    Args:
        template: compiled, with the watch on its last loop.
        tails: what it writes behind that loop, without and with a generation prompt.
    """

    def __init__(self, template: Any, tails: tuple[str, str]) -> None:
        self._template = template
        self._tails = tails
        self._is_trusted = True
        self.num_verified = 0

    def compare(self, known: Rendering, alone: Rendering) -> None:
        """Hold a beginning against its own rendering; one that differs ends this way of rendering for good."""
        self._is_trusted = self._is_trusted and known == alone
        self.num_verified += self._is_trusted

    def render(self, template: ChatTemplate, messages: list[Message], tools: list[Any] | None) -> _Whole | None:
        """All of `messages` at once; None where the template does not take them so, or refuses them."""
        if not self._is_trusted:
            return None
        watch = _Watch(messages)
        arguments = template.arguments(_WatchedMessages(watch), tools)
        arguments[_WATCH] = watch
        try:
            write_blocks(self._template, arguments, watch.blocks, watch.generated)
            text = with_bytes("".join(watch.blocks))
        except MemoryError:
            raise
        except Exception:  # whatever a template comes up with; rendered alone, the chat gets its own error
            self._is_trusted = not _takes(template, messages, tools)
            return None
        return _Whole(watch, Rendering(text, tuple(watch.generated)), self._tails)


def _takes(template: ChatTemplate, messages: list[Message], tools: list[Any] | None) -> bool:
    try:
        template.render(messages, tools)
    except RowError:
        return False
    return True


# What may stand behind the last loop: nothing that could remember the messages.
_TAIL_NODES = (
    *("Output", "TemplateData", "If", "Const", "Name", "Not", "And", "Or", "Compare", "Operand", "Concat", "Add"),
    *("CondExpr", "Test"),
)
_OF_A_CHAT = {"messages", "tools", "documents", "loop"}


@lru_cache(maxsize=4)
def _one_pass(source: str, special_items: tuple[tuple[str, str], ...]) -> _OnePass | None:
    """The way to render all beginnings of a chat at once; None for a template where none is known."""
    from jinja2 import nodes

    try:
        environment = compiled(source).environment
        tree = environment.parse(source)
        place = max(i for i, node in enumerate(tree.body) if isinstance(node, nodes.For))
        if not _ends_in_loop(tree, place):
            return None
        tail = environment.from_string(nodes.Template(tree.body[place + 1 :], lineno=1))
        without, asking = (tail.render(add_generation_prompt=asks, **dict(special_items)) for asks in (False, True))
        _set_watch(tree.body[place], environment)
        template = environment.from_string(tree)
    except MemoryError:
        raise
    except Exception:  # broken, or without a loop; whoever renders a chat with it is told
        return None
    template.globals = dict(template.globals)
    return _OnePass(template, (without, asking))


def _ends_in_loop(tree: Any, place: int) -> bool:
    """Whether nothing in front of the end of loop `place` knows of the generation prompt, and nothing behind it of
    the chat."""
    from jinja2 import nodes

    loop, head, tail = tree.body[place], tree.body[: place + 1], tree.body[place + 1 :]
    names = {name.name for name in tree.find_all(nodes.Name)}
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    stored |= {node.name for node in tree.find_all((nodes.NSRef, nodes.Macro))}
    has_other_parts = any(tree.find_all((nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)))
    if loop.else_ or loop.test or loop.recursive or has_other_parts or _WATCH in names:
        return False
    in_head = {name.name for node in head for name in node.find_all(nodes.Name)}
    in_tail = [inner for node in tail for inner in (node, *node.find_all(nodes.Node))]
    if not all(type(node).__name__ in _TAIL_NODES for node in in_tail):
        return False
    tail_names = {node.name for node in in_tail if isinstance(node, nodes.Name)}
    return "add_generation_prompt" not in in_head and not tail_names & (stored | _OF_A_CHAT)


def _set_watch(loop: Any, environment: Any) -> None:
    """Let `loop` tell when it takes its next message, and when a turn begins and ends."""
    from jinja2 import nodes

    def told(node: Any, name: str, *arguments: Any) -> Any:
        return nodes.Filter(node, name, [*arguments], [], None, None, lineno=loop.lineno)

    def watch() -> Any:
        return nodes.Name(_WATCH, "load", lineno=loop.lineno)

    environment.filters |= {_EACH: _each_turn, _BEGIN: _Watch.begin_turn, _END: _Watch.end_turn}
    begin, end = (nodes.ExprStmt(told(watch(), name), lineno=loop.lineno) for name in (_BEGIN, _END))
    loop.iter = told(loop.iter, _EACH)
    loop.body = [begin, *loop.body, end]


def _each_turn(messages: Any) -> Any:
    return messages.turns() if isinstance(messages, _WatchedMessages) else messages

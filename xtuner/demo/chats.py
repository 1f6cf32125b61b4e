"""The demo's data set: chats about many small things, built from the tables in `topics`.

The same forms of question and answer come back with other facts, so even a model of random weights learns the
forms within a minute; the facts keep the loss from falling to nothing.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from xtuner.demo.topics import animals, chinese, cities, dates, essays, kitchen, numbers, planets, tool
from xtuner.demo.topics.dialogue import Dialogue

# Every so many chats of a topic open with a system message.
_SYSTEM_EVERY = 4


class Topic(NamedTuple):
    """A source of dialogues, and the system messages that suit them all."""

    dialogues: Callable[[], list[Dialogue]]
    systems: tuple[str, ...]


TOPICS = (
    Topic(
        planets.dialogues, ("You are a guide in a planetarium.", "You know the Solar System well. Use metric units.")
    ),
    Topic(cities.dialogues, ("You help people who travel.", "You are a friendly teacher of geography.")),
    Topic(numbers.dialogues, ("You are a patient teacher of mathematics. Show the steps.", "Give the result first.")),
    Topic(dates.dialogues, ("You know calendars well.", "You answer questions about dates. Be exact.")),
    Topic(kitchen.dialogues, ("You are a cook. Use metric units.", "You help in the kitchen. Keep it simple.")),
    Topic(animals.dialogues, ("You are a guide in a museum of nature.", "You love animals and speak plainly.")),
    Topic(essays.dialogues, ("You explain nature and daily life in plain words.", "You are a helpful assistant.")),
    Topic(tool.dialogues, ("You help people who fine-tune language models.", "You are the assistant of XTuner.")),
    Topic(chinese.dialogues, ("你是一个乐于助人的助手。", "请用简单的中文回答。")),
)


def demo_chats() -> list[list[dict[str, str]]]:
    """All rows, each a list of `{"role", "content"}` messages that ends with the assistant; no two are the same."""
    chats = [_messages(topic, dialogue, i) for topic in TOPICS for i, dialogue in enumerate(topic.dialogues())]
    # Mixed by hash: the order needs no generator whose stream may change between Python versions.
    return sorted(chats, key=lambda chat: sha256(repr(chat).encode()).digest())


def _messages(topic: Topic, dialogue: Dialogue, index: int) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    if index % _SYSTEM_EVERY == 0:
        system = topic.systems[index // _SYSTEM_EVERY % len(topic.systems)]
        messages.append({"role": "system", "content": system})
    for turn in dialogue:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.assistant})
    return messages

import json
from collections import Counter
from hashlib import sha256

from xtuner.demo.build import FORMAT_VERSION
from xtuner.demo.chats import demo_chats

CHATS = demo_chats()
# With a new digest comes a new FORMAT_VERSION in build.py, or old caches would be taken for the new demo.
DIGESTS = {1: "137be5d961838437bbf4c6d2649c9055ad9b51f110ff94847582802910254509"}


def num_replies(chat: list[dict[str, str]]) -> int:
    return sum(message["role"] == "assistant" for message in chat)


def test_the_data_set_belongs_to_the_format_version() -> None:
    assert sha256(json.dumps(CHATS).encode()).hexdigest() == DIGESTS[FORMAT_VERSION]


def test_there_are_enough_rows_and_no_two_alike() -> None:
    assert len(CHATS) >= 400
    assert len({json.dumps(chat) for chat in CHATS}) == len(CHATS)


def test_roles_take_turns_and_the_assistant_ends() -> None:
    for chat in CHATS:
        turns = chat[1:] if chat[0]["role"] == "system" else chat
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns


def test_every_message_is_clean_text() -> None:
    for message in (message for chat in CHATS for message in chat):
        assert message.keys() == {"role", "content"}
        content = message["content"]
        assert content and content == content.strip()
        assert "{" not in content.replace('{"role"', "") and "  " not in content, content
        assert content[-1] in ".?!。？！]", content


def test_lengths_and_languages_are_mixed() -> None:
    replies = Counter(num_replies(chat) for chat in CHATS)
    multi_turn = 1 - replies[1] / len(CHATS)
    assert set(replies) == {1, 2, 3, 4}
    assert 0.28 < multi_turn < 0.40

    with_system = sum(chat[0]["role"] == "system" for chat in CHATS) / len(CHATS)
    assert 0.15 < with_system < 0.35

    chinese = sum(any("\u4e00" <= letter <= "\u9fff" for letter in chat[-1]["content"]) for chat in CHATS) / len(CHATS)
    assert 0.08 < chinese < 0.13

    words = [len(chat[-1]["content"].split()) for chat in CHATS]
    assert sum(count >= 200 for count in words) >= 5
    assert sum(5 <= count <= 30 for count in words) >= 100

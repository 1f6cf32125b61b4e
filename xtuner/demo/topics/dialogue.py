"""Questions and answers, and how several of them about one thing become a chat."""

from typing import NamedTuple


class Turn(NamedTuple):
    """What the user says and what the assistant replies."""

    user: str
    assistant: str


class Facet(NamedTuple):
    """One side of a thing: `ask` opens a chat, `follow` asks the same when the thing was already named."""

    ask: str
    follow: str
    answer: str


Dialogue = tuple[Turn, ...]


def chain(*facets: Facet) -> Dialogue:
    """One chat in which each facet follows on the one before."""
    first, *rest = facets
    return (Turn(first.ask, first.answer), *(Turn(facet.follow, facet.answer) for facet in rest))


def rotate(variants: tuple[str, ...], index: int) -> str:
    """The variant whose turn it is; equal facts are asked for in different words."""
    return variants[index % len(variants)]

"""The eight planets: size, distance, day and year, and what each is known for.

Figures are rounded values of NASA's planetary fact sheet (https://nssdc.gsfc.nasa.gov/planetary/factsheet/).
"""

from itertools import pairwise
from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate


class Planet(NamedTuple):
    """One row of the table; `distance` is the mean distance to the Sun, `diameter_km` is at the equator."""

    name: str
    place: str
    kind: str
    diameter_km: int
    distance: str
    year: str
    day: str
    moons: str
    known_for: str


PLANETS = (
    Planet(
        "Mercury",
        "first",
        "rocky",
        4879,
        "58 million kilometres",
        "88 Earth days",
        "It turns once in about 59 Earth days, so slowly that one sunrise follows the other after 176 Earth days.",
        "Mercury has no moons.",
        "Mercury is the smallest planet and has almost no air to hold warmth. Its days reach about 430 degrees "
        "Celsius, and its nights fall to about 180 degrees below zero.",
    ),
    Planet(
        "Venus",
        "second",
        "rocky",
        12104,
        "108 million kilometres",
        "225 Earth days",
        "It turns backwards, and one turn takes about 243 Earth days, which is longer than its year.",
        "Venus has no moons.",
        "Venus is the hottest planet. Its thick air of carbon dioxide traps the heat, and the ground stays near 465 "
        "degrees Celsius by day and by night.",
    ),
    Planet(
        "Earth",
        "third",
        "rocky",
        12756,
        "150 million kilometres",
        "about 365 and a quarter days",
        "It turns once in 23 hours and 56 minutes, and from noon to noon it takes 24 hours.",
        "Earth has one large moon, called the Moon.",
        "Earth is the only planet known to carry life. Oceans of liquid water cover about 71 percent of its surface, "
        "and its air is mostly nitrogen and oxygen.",
    ),
    Planet(
        "Mars",
        "fourth",
        "rocky",
        6792,
        "228 million kilometres",
        "687 Earth days",
        "It turns once in about 24 hours and 37 minutes, so its day is close to ours.",
        "Mars has two small moons, Phobos and Deimos.",
        "Mars is called the red planet because rust colours its dust. It carries Olympus Mons, the tallest volcano "
        "known in the Solar System, and its thin air is mostly carbon dioxide.",
    ),
    Planet(
        "Jupiter",
        "fifth",
        "giant",
        142984,
        "778 million kilometres",
        "almost 12 Earth years",
        "It turns once in just under 10 hours, which is the shortest day of all the planets.",
        "Jupiter has dozens of moons. The four largest are Io, Europa, Ganymede and Callisto.",
        "Jupiter is the largest planet and has more mass than all the others together. Its Great Red Spot is a storm "
        "wider than the Earth.",
    ),
    Planet(
        "Saturn",
        "sixth",
        "giant",
        120536,
        "1.4 billion kilometres",
        "about 29 Earth years",
        "It turns once in a little under 11 hours.",
        "Saturn has more known moons than any other planet. The largest is Titan, which has thick air of its own.",
        "Saturn is known for its bright rings, which are made of countless pieces of ice and some rock. Its mean "
        "density is lower than that of water.",
    ),
    Planet(
        "Uranus",
        "seventh",
        "giant",
        51118,
        "2.9 billion kilometres",
        "84 Earth years",
        "It turns once in about 17 hours.",
        "Uranus has more than two dozen known moons. The largest is Titania.",
        "Uranus lies on its side: its axis is tilted by about 98 degrees, so each pole has 42 years of light and then "
        "42 years of darkness. Methane gives it a pale blue-green colour.",
    ),
    Planet(
        "Neptune",
        "eighth",
        "giant",
        49528,
        "4.5 billion kilometres",
        "165 Earth years",
        "It turns once in about 16 hours.",
        "Neptune has more than a dozen known moons. The largest is Triton, which circles it backwards.",
        "Neptune has the fastest winds known on any planet, at about 2,000 kilometres per hour. It was found in 1846 "
        "close to the spot that calculations had given.",
    ),
)

_SIZE = ("How large is {0}?", "What is the diameter of {0}?", "Can you tell me the size of the planet {0}?")
_DISTANCE = ("How far is {0} from the Sun?", "What is the distance between {0} and the Sun?")
_YEAR = ("How long is a year on {0}?", "How long does {0} take to go around the Sun?")
_DAY = ("How fast does {0} turn?", "How long is a day on {0}?")
_MOONS = ("How many moons does {0} have?", "Does {0} have any moons?")
_FAME = ("What is {0} known for?", "What makes {0} special among the planets?")


def dialogues() -> list[Dialogue]:
    """Short questions, follow-ups and one long portrait for each planet, and comparisons of neighbours."""
    chats: list[Dialogue] = []
    for index, planet in enumerate(PLANETS):
        size, distance, year, day, moons, fame = _facets(planet, index)
        chats += [
            chain(size if index % 2 else distance),
            chain(year if index % 2 else day),
            chain(moons, fame),
            chain(fame, size, year) if index % 2 else chain(distance, year, day, moons),
            (_portrait(planet, [size, distance, year, moons, fame]),),
        ]
    chats += [(_comparison(inner, outer),) for inner, outer in pairwise(PLANETS)]
    return chats


def _facets(planet: Planet, index: int) -> list[Facet]:
    name = planet.name
    return [
        Facet(
            rotate(_SIZE, index).format(name),
            "How large is it?",
            f"{name} is a {planet.kind} planet. Its diameter at the equator is {planet.diameter_km:,} kilometres.",
        ),
        Facet(
            rotate(_DISTANCE, index).format(name),
            "And how far is it from the Sun?",
            f"{name} is the {planet.place} planet from the Sun. Its mean distance is about {planet.distance}.",
        ),
        Facet(
            rotate(_YEAR, index).format(name),
            "How long does it take to go around the Sun?",
            f"{name} goes around the Sun once in {planet.year}. That is the length of its year.",
        ),
        Facet(rotate(_DAY, index).format(name), "How fast does it turn?", f"{name} spins on its axis. {planet.day}"),
        Facet(rotate(_MOONS, index).format(name), "Does it have any moons?", planet.moons),
        Facet(rotate(_FAME, index).format(name), "What is it known for?", planet.known_for),
    ]


def _portrait(planet: Planet, facets: list[Facet]) -> Turn:
    size, distance, year, moons, fame = (facet.answer for facet in facets)
    return Turn(
        f"Please write a portrait of the planet {planet.name} in two paragraphs.",
        f"{distance} {size} {year}\n\n{fame} {moons} {planet.name} spins on its axis. {planet.day}",
    )


def _comparison(inner: Planet, outer: Planet) -> Turn:
    larger, smaller = (inner, outer) if inner.diameter_km > outer.diameter_km else (outer, inner)
    ratio = larger.diameter_km / smaller.diameter_km
    return Turn(
        f"Which planet is larger, {inner.name} or {outer.name}?",
        f"{larger.name} is larger. Its diameter is about {larger.diameter_km:,} kilometres, and that of "
        f"{smaller.name} is about {smaller.diameter_km:,} kilometres. The one is about {ratio:.1f} times as wide as "
        f"the other.",
    )

"""Sixteen animals: what they are, what they eat, where they live, and what is odd about them."""

from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate


class Animal(NamedTuple):
    """One row of the table; `name` is a plural, `odd` a whole sentence."""

    name: str
    kind: str
    food: str
    home: str
    odd: str


ANIMALS = (
    Animal(
        "elephants",
        "mammals",
        "grass, leaves, bark and fruit",
        "the savannas and forests of Africa and Asia",
        "African bush elephants are the largest land animals, and a male can weigh six tonnes.",
    ),
    Animal(
        "blue whales",
        "mammals",
        "small shrimp-like animals called krill",
        "all the large oceans",
        "They are the largest animals known to have lived, and they can grow to about thirty metres.",
    ),
    Animal(
        "honeybees",
        "insects",
        "nectar and pollen",
        "hives of many thousands on every continent except Antarctica",
        "A bee that has found flowers dances in the hive to show the others the direction.",
    ),
    Animal(
        "emperor penguins",
        "birds",
        "fish, squid and krill",
        "the ice and the sea of Antarctica",
        "The males keep the eggs warm on their feet for about two months in the dark of winter.",
    ),
    Animal(
        "octopuses",
        "molluscs",
        "crabs, snails and fish",
        "the oceans, mostly on the sea floor",
        "They have three hearts and blue blood, and they can change colour in a moment.",
    ),
    Animal(
        "bats",
        "mammals",
        "insects in most species, and fruit or nectar in many others",
        "caves, trees and roofs in almost every land",
        "They are the only mammals that truly fly, and many find their way by echoes of their calls.",
    ),
    Animal(
        "giraffes",
        "mammals",
        "leaves, most of all those of acacia trees",
        "the savannas of Africa",
        "Their long neck has only seven bones, the same number as in a human neck.",
    ),
    Animal(
        "camels",
        "mammals",
        "dry grass, leaves and thorny plants",
        "the deserts and dry plains of Africa and Asia",
        "The hump stores fat and not water, and it shrinks when food is scarce.",
    ),
    Animal(
        "owls",
        "birds",
        "mice, insects and other small animals",
        "forests, fields, deserts and even towns",
        "Their eyes cannot turn in the head, so they turn the head by up to about 270 degrees.",
    ),
    Animal(
        "frogs",
        "amphibians",
        "insects, worms and snails",
        "ponds, streams and wet forests",
        "They begin life as tadpoles with gills and breathe through lungs and skin when they are grown.",
    ),
    Animal(
        "spiders",
        "arachnids",
        "insects and other small animals",
        "almost every place on land",
        "They have eight legs, and weight for weight their silk can be stronger than steel.",
    ),
    Animal(
        "kangaroos",
        "mammals",
        "grass and leaves",
        "the plains and woods of Australia",
        "A newborn is about as large as a bean and climbs into the pouch of its mother by itself.",
    ),
    Animal(
        "giant pandas",
        "mammals",
        "bamboo, for ten hours a day or more",
        "mountain forests in China",
        "They belong to the bears, and a newborn weighs only about a hundred grams.",
    ),
    Animal(
        "sea turtles",
        "reptiles",
        "sea grass, jellyfish or crabs, depending on the species",
        "warm seas around the world",
        "Females come back to lay their eggs near the beach where they hatched themselves.",
    ),
    Animal(
        "hummingbirds",
        "birds",
        "nectar and tiny insects",
        "North and South America",
        "They can hover and fly backwards, and their wings beat dozens of times a second.",
    ),
    Animal(
        "ants",
        "insects",
        "seeds, other insects and the sweet juice of aphids",
        "nests in almost every land except the coldest",
        "A worker can carry many times its own weight, and a nest acts like one large body.",
    ),
)

_KIND = ("What kind of animals are {0}?", "Are {0} mammals?")
_FOOD = ("What do {0} eat?", "What is the food of {0}?")
_HOME = ("Where do {0} live?", "In which places can I find {0}?")
_ODD = ("Tell me something surprising about {0}.", "What is special about {0}?")


def dialogues() -> list[Dialogue]:
    """For each animal a short question or two, one chat, and for every second one a page for children."""
    chats: list[Dialogue] = []
    for index, animal in enumerate(ANIMALS):
        kind, food, home, odd = _facets(animal, index)
        chats.append(chain(food, kind) if index % 2 else chain(odd))
        chats.append(chain(kind, food, home, odd) if index % 4 == 0 else chain(home, food))
        chats.append((_page(animal),) if index % 2 else chain(kind))
    return chats


def _facets(animal: Animal, index: int) -> tuple[Facet, Facet, Facet, Facet]:
    name = animal.name
    kind = f"{name.capitalize()} are {animal.kind}."
    if index % 2:
        kind = f"{'Yes' if animal.kind == 'mammals' else 'No'}. {kind}"
    return (
        Facet(rotate(_KIND, index).format(name), "What kind of animals are they?", f"{kind} {animal.odd}"),
        Facet(
            rotate(_FOOD, index).format(name),
            "What do they eat?",
            f"{name.capitalize()} eat {animal.food}.",
        ),
        Facet(rotate(_HOME, index).format(name), "Where do they live?", f"{name.capitalize()} live in {animal.home}."),
        Facet(rotate(_ODD, index).format(name), "Is there something special about them?", animal.odd),
    )


def _page(animal: Animal) -> Turn:
    name = animal.name
    return Turn(
        f"Write a page about {name} for a book for children.",
        f"Have you ever thought about {name}? They are {animal.kind}, and they live in {animal.home}.\n\n"
        f"What do they eat? {name.capitalize()} eat {animal.food}. Finding it takes skill and patience.\n\n"
        f"And here is something to remember. {animal.odd}",
    )

"""Sums, products, shares, averages and units, worked out step by step."""

from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate

SUMS = ((27, 58), (136, 247), (64, 19), (305, 498), (72, 89), (418, 163), (91, 45), (256, 512), (83, 38), (670, 245))
PRODUCTS = ((12, 7), (23, 4), (15, 16), (31, 9), (48, 5), (64, 8), (17, 6), (25, 12), (39, 3), (52, 11))
SHARES = ((15, 80), (20, 45), (5, 240), (30, 90), (25, 64), (10, 370), (40, 150), (75, 120), (60, 35), (8, 500))
LISTS = ((4, 8, 12), (10, 15, 35), (7, 9, 11, 13), (2, 4, 6, 8, 10), (30, 60, 90), (21, 22, 23, 24, 25), (5, 5, 20))
PURCHASES = (
    ("notebooks", 4, 3, 20),
    ("tickets", 5, 9, 50),
    ("apples", 12, 2, 30),
    ("lamps", 3, 26, 100),
    ("cups", 6, 7, 50),
    ("pens", 8, 2, 20),
    ("chairs", 2, 45, 100),
    ("books", 7, 14, 120),
)


class Unit(NamedTuple):
    """One `source` is `factor` times `target`; `note` is a whole sentence about the two."""

    source: str
    target: str
    factor: float
    is_exact: bool
    examples: tuple[int, ...]
    note: str


UNITS = (
    Unit("kilometres", "metres", 1000, True, (3, 12, 42), "The prefix kilo stands for one thousand."),
    Unit("metres", "centimetres", 100, True, (2, 7, 25), "The prefix centi stands for one hundredth."),
    Unit("kilograms", "grams", 1000, True, (2, 5, 16), "A litre of water has a mass of about one kilogram."),
    Unit("litres", "millilitres", 1000, True, (3, 8, 20), "A teaspoon holds about five millilitres."),
    Unit("hours", "minutes", 60, True, (2, 6, 36), "An hour has sixty minutes, and a minute has sixty seconds."),
    Unit("days", "hours", 24, True, (3, 7, 30), "A day has twenty-four hours."),
    Unit("weeks", "days", 7, True, (4, 9, 52), "Fifty-two weeks are one day short of a common year."),
    Unit("miles", "kilometres", 1.609, False, (5, 10, 26), "A mile is exactly 1,609.344 metres."),
    Unit("inches", "centimetres", 2.54, True, (4, 10, 24), "An inch is exactly 2.54 centimetres."),
    Unit("pounds", "kilograms", 0.4536, False, (10, 50, 150), "A pound is a little less than half a kilogram."),
    Unit("feet", "metres", 0.3048, True, (6, 20, 100), "A foot has twelve inches, and three feet make a yard."),
)

_UNIT = ("How many {1} are {2} {0}?", "Please convert {2} {0} to {1}.", "What are {2} {0} in {1}?")
_SUM = ("What is {0} plus {1}?", "Please add {0} and {1}.", "Can you add {0} to {1} and show the steps?")
_PRODUCT = ("What is {0} times {1}?", "Please multiply {0} by {1}.")
_SHARE = ("What is {0} percent of {1}?", "How much is {0} percent of {1}?")


def dialogues() -> list[Dialogue]:
    """Worked answers, alone and in chats that go on with the next number."""
    sums = [_sum(a, b, i) for i, (a, b) in enumerate(SUMS)]
    products = [_product(a, b, i) for i, (a, b) in enumerate(PRODUCTS)]
    shares = [_share(percent, whole, i) for i, (percent, whole) in enumerate(SHARES)]
    chats = [chain(facet) for facet in [*sums, *products, *shares]]
    chats += [(_average(numbers),) for numbers in LISTS]
    chats += [(_purchase(*purchase),) for purchase in PURCHASES]
    chats += [chain(sums[i], products[i - 1], shares[i - 2]) for i in range(0, len(sums), 2)]
    for index, unit in enumerate(UNITS):
        facets = [_convert(unit, amount, index) for amount in unit.examples]
        chats += [chain(facets[0]), chain(*facets[1:])]
    chats += [chain(_warmth(10 * i, i)) for i in range(-1, 5)]
    return chats


def _sum(a: int, b: int, index: int) -> Facet:
    ones, tens = a % 10 + b % 10, a - a % 10 + b - b % 10
    return Facet(
        rotate(_SUM, index).format(a, b),
        f"And what is {a} plus {b}?",
        f"{a} plus {b} is {a + b}. First add the tens and hundreds: {a - a % 10} plus {b - b % 10} is {tens}. Then add "
        f"the ones: {a % 10} plus {b % 10} is {ones}. Together, {tens} plus {ones} is {a + b}.",
    )


def _product(a: int, b: int, index: int) -> Facet:
    tens, ones = a - a % 10, a % 10
    return Facet(
        rotate(_PRODUCT, index).format(a, b),
        f"And what is {a} times {b}?",
        f"{a} times {b} is {a * b}. Split {a} into {tens} and {ones}. Then {tens} times {b} is {tens * b}, and {ones} "
        f"times {b} is {ones * b}. Together, {tens * b} plus {ones * b} is {a * b}.",
    )


def _share(percent: int, whole: int, index: int) -> Facet:
    return Facet(
        rotate(_SHARE, index).format(percent, whole),
        f"And what is {percent} percent of {whole}?",
        f"{percent} percent of {whole} is {percent * whole / 100:g}. One percent of {whole} is {whole / 100:g}, and "
        f"{percent} times {whole / 100:g} is {percent * whole / 100:g}.",
    )


def _average(numbers: tuple[int, ...]) -> Turn:
    listed = ", ".join(str(number) for number in numbers[:-1]) + f" and {numbers[-1]}"
    total = sum(numbers)
    return Turn(
        f"What is the average of {listed}?",
        f"The average is {total / len(numbers):g}. Add the numbers first: their sum is {total}. There are "
        f"{len(numbers)} numbers, and {total} divided by {len(numbers)} is {total / len(numbers):g}.",
    )


def _purchase(things: str, count: int, price: int, note: int) -> Turn:
    return Turn(
        f"I buy {count} {things} at {price} euros each and pay with {note} euros. How much money do I get back?",
        f"You get {note - count * price} euros back. The {things} cost {count} times {price}, which is "
        f"{count * price} euros. You pay with {note}, and {note} minus {count * price} is {note - count * price}.",
    )


def _convert(unit: Unit, amount: int, index: int) -> Facet:
    result = f"{amount * unit.factor:,.6g}" if amount * unit.factor < 1000 else f"{amount * unit.factor:,.0f}"
    return Facet(
        rotate(_UNIT, index).format(unit.source, unit.target, amount),
        f"And {amount} {unit.source}?",
        f"{amount} {unit.source} are {'' if unit.is_exact else 'about '}{result} {unit.target}. "
        f"To get from {unit.source} to {unit.target}, multiply by {unit.factor:,}. {unit.note}",
    )


def _warmth(celsius: int, index: int) -> Facet:
    fahrenheit = celsius * 9 // 5 + 32
    return Facet(
        rotate(
            ("What is {0} degrees Celsius in Fahrenheit?", "Please convert {0} degrees Celsius to Fahrenheit."), index
        ).format(celsius),
        f"And {celsius} degrees Celsius?",
        f"{celsius} degrees Celsius are {fahrenheit} degrees Fahrenheit. Multiply by 9, divide by 5, and add 32: "
        f"{celsius} times 9 is {celsius * 9}, divided by 5 that is {celsius * 9 // 5}, and plus 32 it is {fahrenheit}.",
    )

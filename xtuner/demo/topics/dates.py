"""Weekdays, leap years and spans between dates, computed by the calendar, and how calendars work."""

import calendar
from datetime import date

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate

# Not from `calendar`, whose names follow the locale of the machine.
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
EVENTS = (
    (date(1969, 7, 20), "people first landed on the Moon"),
    (date(1957, 10, 4), "the first artificial satellite was launched"),
    (date(1961, 4, 12), "a human being first flew into space"),
    (date(1903, 12, 17), "the first powered aeroplane flew"),
    (date(1989, 11, 9), "the Berlin Wall was opened"),
    (date(1945, 10, 24), "the Charter of the United Nations came into force"),
    (date(1990, 4, 24), "the Hubble Space Telescope was launched"),
    (date(2012, 8, 6), "the rover Curiosity landed on Mars"),
)
SPANS = (
    (date(2025, 3, 1), date(2025, 4, 15)),
    (date(2025, 12, 24), date(2026, 1, 6)),
    (date(2024, 2, 20), date(2024, 3, 10)),
    (date(2026, 6, 5), date(2026, 6, 30)),
    (date(2025, 9, 18), date(2025, 11, 2)),
    (date(2027, 1, 1), date(2027, 5, 1)),
)
YEARS = (1900, 1996, 2000, 2023, 2024, 2100)

EXPLAINED = (
    Facet(
        "Why do we have leap years?",
        "Why are there leap years at all?",
        "The Earth needs about 365.2422 days to go around the Sun, which is almost a quarter of a day more than 365. "
        "Without a correction the calendar would slip by about one day every four years, and after a few centuries "
        "the months would no longer fit the seasons. A leap day every four years mends most of this.",
    ),
    Facet(
        "Which years are leap years?",
        "Which years get the extra day?",
        "A year is a leap year when it can be divided by 4. There is one exception: years that can be divided by 100 "
        "are common years, unless they can also be divided by 400. So 2000 was a leap year, and 1900 was not.",
    ),
    Facet(
        "How many days does each month have?",
        "And how many days do the months have?",
        "April, June, September and November have 30 days. February has 28 days, and 29 in a leap year. All the other "
        "months have 31 days.",
    ),
    Facet(
        "What is a time zone?",
        "What are time zones for?",
        "A time zone is a region in which all clocks show the same time. The Earth turns by 15 degrees in one hour, "
        "so noon comes an hour later for every 15 degrees to the west. Time zones keep noon near the middle of the "
        "day everywhere, and they save neighbouring towns from keeping different clocks.",
    ),
)

_WEEKDAY = ("Which day of the week was {0}?", "What weekday was {0}?")


def dialogues() -> list[Dialogue]:
    """Weekdays of known events, spans, leap years, and chats about why calendars are as they are."""
    chats: list[Dialogue] = []
    for index, (day, event) in enumerate(EVENTS):
        weekday, when = _weekday(day, event, index), _when(day, event)
        chats += [chain(weekday), chain(when, weekday)] if index % 2 else [chain(when)]
    chats += [(_span(first, last),) for first, last in SPANS]
    leaps = [_leap(year) for year in YEARS]
    chats += [chain(leap) for leap in leaps]
    chats += [chain(EXPLAINED[0], EXPLAINED[1], leaps[i], leaps[-1 - i]) for i in range(2)]
    chats += [chain(facet) for facet in EXPLAINED]
    chats += [chain(EXPLAINED[2], leaps[4]), chain(EXPLAINED[3], EXPLAINED[0], EXPLAINED[1])]
    return chats


def _written(day: date) -> str:
    return f"{MONTHS[day.month - 1]} {day.day}, {day.year}"


def _weekday(day: date, event: str, index: int) -> Facet:
    name = WEEKDAYS[day.weekday()]
    return Facet(
        rotate(_WEEKDAY, index).format(_written(day)),
        "Which day of the week was that?",
        f"{_written(day)} was a {name}. It was the day on which {event}.",
    )


def _when(day: date, event: str) -> Facet:
    return Facet(
        f"Do you know on which day {event}?",
        f"On which day was it that {event}?",
        f"It was on {_written(day)} that {event}. In the notation of ISO 8601 this day is {day.isoformat()}.",
    )


def _span(first: date, last: date) -> Turn:
    num_days = (last - first).days
    weeks, rest = divmod(num_days, 7)
    return Turn(
        f"How many days are there from {_written(first)} to {_written(last)}?",
        f"From {_written(first)} to {_written(last)} there are {num_days} days. That is {weeks} "
        f"{'week' if weeks == 1 else 'weeks'} and {rest} {'day' if rest == 1 else 'days'}. The first day is not "
        f"counted, the last one is.",
    )


def _leap(year: int) -> Facet:
    if year % 400 == 0:
        reason = f"{year} can be divided by 400, and such years have a February with 29 days."
    elif year % 100 == 0:
        reason = f"{year} can be divided by 100 and not by 400, so its February has 28 days."
    elif year % 4 == 0:
        reason = f"{year} can be divided by 4 and not by 100, so its February has 29 days."
    else:
        reason = f"{year} cannot be divided by 4, so its February has 28 days."
    answer = "Yes" if calendar.isleap(year) else "No"
    kind = "a leap year" if calendar.isleap(year) else "a common year"
    return Facet(
        f"Is {year} a leap year?", f"What about the year {year}?", f"{answer}. The year {year} is {kind}. {reason}"
    )

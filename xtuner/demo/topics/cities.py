"""Twenty capitals: country, river, language, money, and what a visitor sees."""

from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate


class City(NamedTuple):
    """One row of the table; `sight` is a whole sentence."""

    name: str
    country: str
    continent: str
    river: str
    language: str
    money: str
    sight: str


CITIES = (
    City(
        "Paris",
        "France",
        "Europe",
        "the Seine",
        "French",
        "the euro",
        "The Eiffel Tower was built for the world fair of 1889, and the Louvre is one of the largest museums on Earth.",
    ),
    City(
        "London",
        "the United Kingdom",
        "Europe",
        "the Thames",
        "English",
        "the pound sterling",
        "Tower Bridge opens for ships, and the underground railway of 1863 is the oldest in the world.",
    ),
    City(
        "Rome",
        "Italy",
        "Europe",
        "the Tiber",
        "Italian",
        "the euro",
        "The Colosseum is almost two thousand years old, and Vatican City lies inside the town.",
    ),
    City(
        "Vienna",
        "Austria",
        "Europe",
        "the Danube",
        "German",
        "the euro",
        "The palace of Schönbrunn has a large park, and the coffee houses are places to sit for hours.",
    ),
    City(
        "Budapest",
        "Hungary",
        "Europe",
        "the Danube",
        "Hungarian",
        "the forint",
        "Hot springs feed its public baths, and the Chain Bridge joins the two halves, Buda and Pest.",
    ),
    City(
        "Prague",
        "the Czech Republic",
        "Europe",
        "the Vltava",
        "Czech",
        "the Czech koruna",
        "The Charles Bridge is lined with statues, and the clock on the old town hall dates from 1410.",
    ),
    City(
        "Warsaw",
        "Poland",
        "Europe",
        "the Vistula",
        "Polish",
        "the zloty",
        "The old town was rebuilt with great care after the Second World War, and visitors can walk along its walls.",
    ),
    City(
        "Lisbon",
        "Portugal",
        "Europe",
        "the Tagus",
        "Portuguese",
        "the euro",
        "Yellow trams climb its hills, and the Belém Tower has watched the harbour since the sixteenth century.",
    ),
    City(
        "Dublin",
        "Ireland",
        "Europe",
        "the Liffey",
        "English",
        "the euro",
        "Trinity College keeps the Book of Kells, a manuscript of about the year 800.",
    ),
    City(
        "Cairo",
        "Egypt",
        "Africa",
        "the Nile",
        "Arabic",
        "the Egyptian pound",
        "The pyramids of Giza stand at the edge of the city, and the largest of them is about 4,500 years old.",
    ),
    City(
        "Nairobi",
        "Kenya",
        "Africa",
        "the Nairobi River",
        "Swahili and English",
        "the Kenyan shilling",
        "A national park with lions and giraffes begins at the edge of the city.",
    ),
    City(
        "Kinshasa",
        "the Democratic Republic of the Congo",
        "Africa",
        "the Congo",
        "French and Lingala",
        "the Congolese franc",
        "From the bank of the river you can see Brazzaville, another capital, on the other side.",
    ),
    City(
        "Baghdad",
        "Iraq",
        "Asia",
        "the Tigris",
        "Arabic",
        "the Iraqi dinar",
        "The Iraq Museum keeps treasures of ancient Mesopotamia, some of them about five thousand years old.",
    ),
    City(
        "New Delhi",
        "India",
        "Asia",
        "the Yamuna",
        "Hindi and English",
        "the Indian rupee",
        "The India Gate stands at the end of a wide avenue, and the Red Fort is a short ride to the north.",
    ),
    City(
        "Bangkok",
        "Thailand",
        "Asia",
        "the Chao Phraya",
        "Thai",
        "the baht",
        "Boats carry people along its canals, and the Grand Palace dates from 1782.",
    ),
    City(
        "Hanoi",
        "Vietnam",
        "Asia",
        "the Red River",
        "Vietnamese",
        "the dong",
        "Narrow streets in the old quarter are named after the goods once sold there, such as silk or paper.",
    ),
    City(
        "Seoul",
        "South Korea",
        "Asia",
        "the Han",
        "Korean",
        "the won",
        "The palace of Gyeongbokgung was founded in 1395, and forested hills rise between the districts.",
    ),
    City(
        "Ottawa",
        "Canada",
        "North America",
        "the Ottawa River",
        "English and French",
        "the Canadian dollar",
        "In cold winters the Rideau Canal becomes a skating rink of almost eight kilometres.",
    ),
    City(
        "Washington",
        "the United States",
        "North America",
        "the Potomac",
        "English",
        "the US dollar",
        "The museums of the Smithsonian Institution stand along the National Mall, and most of them are free.",
    ),
    City(
        "Buenos Aires",
        "Argentina",
        "South America",
        "the Río de la Plata",
        "Spanish",
        "the Argentine peso",
        "The city is known for the tango and for the Teatro Colón, one of the great opera houses of the world.",
    ),
)

_CAPITAL = (
    "What is the capital of {0}?",
    "Which city is the capital of {0}?",
    "I forgot the capital of {0}. Can you help?",
)
_RIVER = ("On which river does {0} lie?", "Which river flows past {0}?")
_SIGHT = ("What is there to see in {0}?", "I am going to {0} next month. What should I know about it?")


def dialogues() -> list[Dialogue]:
    """For each city a short question, a chat with follow-ups and, for every second one, a travel note."""
    chats: list[Dialogue] = []
    for index, city in enumerate(CITIES):
        capital, river, language, money, sight = _facets(city, index)
        chats.append(chain(capital))
        chats.append(chain(river, language) if index % 2 else chain(sight, language, money))
        chats.append((_travel_note(city),) if index % 2 else chain(capital, river, money, sight))
    return chats


def _facets(city: City, index: int) -> list[Facet]:
    name = city.name
    return [
        Facet(
            rotate(_CAPITAL, index).format(city.country),
            f"Is {name} the capital?",
            f"The capital of {city.country} is {name}.",
        ),
        Facet(
            rotate(_RIVER, index).format(name),
            "Which river flows there?",
            f"{name} lies on {city.river}.",
        ),
        Facet(
            f"Which language do people speak in {name}?",
            "Which language do people speak there?",
            f"{_spoken(city)} A few words of greeting are always welcome.",
        ),
        Facet(f"Which money do I need in {name}?", "And which money do I need?", _money(city)),
        Facet(rotate(_SIGHT, index).format(name), "What is there to see?", city.sight),
    ]


def _spoken(city: City) -> str:
    if " and " in city.language:
        return f"{city.language} are both in everyday use in {city.name}."
    return f"{city.language} is the main language of {city.country}."


def _money(city: City) -> str:
    return f"People in {city.name} pay with {city.money}. It is the currency of {city.country}."


def _travel_note(city: City) -> Turn:
    return Turn(
        f"Write a short travel note about {city.name}.",
        f"{city.name} is the capital of {city.country} in {city.continent}. It lies on {city.river}.\n\n"
        f"{city.sight}\n\n"
        f"{_spoken(city)} {_money(city)} Take good shoes: the best way to learn a "
        f"city is to walk.",
    )

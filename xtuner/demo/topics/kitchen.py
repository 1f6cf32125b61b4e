"""Fifteen simple dishes: what goes in, what is done, how long it takes, and one tip."""

from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate


class Dish(NamedTuple):
    """One row of the table; amounts are for `serves` people."""

    name: str
    serves: int
    minutes: int
    ingredients: tuple[str, ...]
    steps: tuple[str, ...]
    tip: str


DISHES = (
    Dish(
        "tomato soup",
        4,
        35,
        ("1 kilogram of ripe tomatoes", "1 onion", "2 cloves of garlic", "500 millilitres of vegetable stock"),
        (
            "Chop the onion and the garlic and fry them gently in a little oil for five minutes.",
            "Add the chopped tomatoes and the stock, and let everything simmer for twenty minutes.",
            "Blend the soup until it is smooth, and season it with salt and pepper.",
        ),
        "A pinch of sugar helps when the tomatoes are sour.",
    ),
    Dish(
        "pancakes",
        4,
        30,
        ("250 grams of flour", "500 millilitres of milk", "3 eggs", "a pinch of salt"),
        (
            "Whisk the flour with half of the milk until there are no lumps.",
            "Whisk in the eggs, the salt and the rest of the milk, and let the batter rest for ten minutes.",
            "Fry thin pancakes in a little butter, about one minute on each side.",
        ),
        "The first pancake shows whether the pan is hot enough.",
    ),
    Dish(
        "fried rice",
        2,
        20,
        ("400 grams of cold cooked rice", "2 eggs", "1 carrot", "100 grams of peas", "2 tablespoons of soy sauce"),
        (
            "Scramble the eggs in a hot pan with oil and take them out.",
            "Fry the diced carrot and the peas for three minutes, then add the rice and break up the lumps.",
            "Stir in the soy sauce and the eggs, and serve at once.",
        ),
        "Rice from the day before is drier and does not stick.",
    ),
    Dish(
        "lentil stew",
        4,
        45,
        ("300 grams of brown lentils", "2 carrots", "1 leek", "2 potatoes", "1 litre of vegetable stock"),
        (
            "Rinse the lentils in a sieve.",
            "Cut the vegetables into small cubes and fry them for five minutes.",
            "Add the lentils and the stock, and simmer for thirty minutes until the lentils are soft.",
        ),
        "Add salt and a dash of vinegar at the end.",
    ),
    Dish(
        "omelette",
        1,
        10,
        ("3 eggs", "1 tablespoon of butter", "a handful of chopped herbs"),
        (
            "Beat the eggs with a fork and season them with salt and pepper.",
            "Melt the butter in a pan until it foams, then pour in the eggs.",
            "Draw the edges to the middle while the eggs set, add the herbs, and fold the omelette.",
        ),
        "Take it off the heat while the middle is still a little soft.",
    ),
    Dish(
        "potato salad",
        6,
        50,
        ("1.5 kilograms of waxy potatoes", "1 red onion", "200 millilitres of hot stock", "3 tablespoons of vinegar"),
        (
            "Boil the potatoes in their skins for about twenty-five minutes, then peel and slice them while warm.",
            "Mix the chopped onion with the hot stock, the vinegar and a little mustard.",
            "Pour this over the potatoes, add oil, and let the salad rest for fifteen minutes.",
        ),
        "Warm potatoes take up the dressing better than cold ones.",
    ),
    Dish(
        "vegetable curry",
        4,
        40,
        ("400 millilitres of coconut milk", "2 tablespoons of curry paste", "1 cauliflower", "200 grams of chickpeas"),
        (
            "Fry the curry paste in a little oil for one minute, until it smells strongly.",
            "Add the cauliflower in small pieces and stir until it is coated.",
            "Pour in the coconut milk, add the cooked chickpeas, and simmer for twenty minutes.",
        ),
        "A little lime juice at the end makes it fresh.",
    ),
    Dish(
        "apple crumble",
        6,
        55,
        ("1 kilogram of apples", "200 grams of flour", "120 grams of cold butter", "100 grams of sugar"),
        (
            "Peel and slice the apples and spread them in a baking dish.",
            "Rub the flour, the butter and the sugar between your fingers until there are crumbs.",
            "Cover the apples with the crumbs and bake at 180 degrees Celsius for about forty minutes.",
        ),
        "A spoon of cinnamon goes well with the apples.",
    ),
    Dish(
        "hummus",
        4,
        10,
        ("400 grams of cooked chickpeas", "80 grams of sesame paste", "1 lemon", "1 clove of garlic"),
        (
            "Blend the sesame paste with the lemon juice and the garlic.",
            "Add the chickpeas and a little cold water, and blend for three minutes.",
            "Season with salt, and pour some olive oil over it before you serve it.",
        ),
        "Ice-cold water makes it light and smooth.",
    ),
    Dish(
        "pasta with garlic and oil",
        2,
        15,
        ("200 grams of spaghetti", "3 cloves of garlic", "4 tablespoons of olive oil", "a little dried chilli"),
        (
            "Boil the spaghetti in salted water, one minute less than the packet says.",
            "Warm the sliced garlic and the chilli in the oil over low heat until the garlic is golden.",
            "Add the pasta and a small cup of its water to the pan, and toss until the sauce clings.",
        ),
        "Dark garlic turns bitter, so keep the heat low.",
    ),
    Dish(
        "flatbread",
        4,
        60,
        ("300 grams of flour", "180 millilitres of warm water", "1 teaspoon of dry yeast", "1 teaspoon of salt"),
        (
            "Knead the flour, the water, the yeast and the salt for eight minutes.",
            "Cover the dough and let it rise for thirty minutes.",
            "Roll out thin rounds and bake them in a dry, very hot pan for two minutes on each side.",
        ),
        "Wrap the finished breads in a towel, and they stay soft.",
    ),
    Dish(
        "miso soup",
        2,
        15,
        ("600 millilitres of dashi stock", "2 tablespoons of miso paste", "150 grams of tofu", "1 spring onion"),
        (
            "Heat the stock until it is just about to boil.",
            "Add the tofu in small cubes and warm it for two minutes.",
            "Turn off the heat, stir the miso through a sieve into the soup, and add the sliced spring onion.",
        ),
        "Do not boil the soup once the miso is in, or it loses its scent.",
    ),
    Dish(
        "roast vegetables",
        4,
        45,
        ("500 grams of carrots", "500 grams of potatoes", "2 red onions", "3 tablespoons of olive oil"),
        (
            "Heat the oven to 200 degrees Celsius.",
            "Cut everything into pieces of equal size and mix them with the oil, salt and thyme.",
            "Spread them on a tray in one layer and roast for thirty-five minutes, turning them once.",
        ),
        "Pieces that lie too close together steam and do not brown.",
    ),
    Dish(
        "rice pudding",
        4,
        40,
        ("1 litre of milk", "200 grams of short-grain rice", "3 tablespoons of sugar", "1 vanilla pod"),
        (
            "Bring the milk with the sugar and the vanilla to the boil.",
            "Stir in the rice, turn the heat down to low and put a lid on the pot.",
            "Let it swell for thirty minutes and stir it every few minutes.",
        ),
        "It thickens further as it cools, so stop while it is still loose.",
    ),
    Dish(
        "green salad",
        4,
        10,
        ("1 head of lettuce", "3 tablespoons of olive oil", "1 tablespoon of vinegar", "1 teaspoon of mustard"),
        (
            "Wash the lettuce and dry it well.",
            "Shake the oil, the vinegar, the mustard and a little salt in a closed jar.",
            "Mix the leaves with the dressing just before the meal.",
        ),
        "Three parts of oil to one part of vinegar is a good start for any dressing.",
    ),
)

_TIME = ("How long does {0} take?", "How much time do I need for {0}?")
_TIP = ("Do you have a tip for {0}?", "What should I look out for with {0}?")


def dialogues() -> list[Dialogue]:
    """A full recipe for each dish, and short chats about its parts."""
    chats: list[Dialogue] = []
    for index, dish in enumerate(DISHES):
        shopping, time, tip = _shopping(dish), _time(dish, index), _tip(dish, index)
        chats.append((_recipe(dish, index),))
        chats.append(chain(shopping, time, tip) if index % 3 == 0 else chain(shopping))
        chats.append(chain(tip if index % 2 else time))
    return chats


def _recipe(dish: Dish, index: int) -> Turn:
    ingredients = "\n".join(f"- {ingredient}" for ingredient in dish.ingredients)
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(dish.steps, 1))
    return Turn(
        rotate(
            (
                "How do I make {0}?",
                "Please give me a recipe for {0}.",
                "I would like to have {0} tonight. What do I do?",
            ),
            index,
        ).format(dish.name),
        f"Here is a recipe for {dish.name}. It serves {_people(dish)} and takes about {dish.minutes} minutes.\n\n"
        f"You need:\n{ingredients}\n\nThis is what you do:\n{steps}\n\n{dish.tip}",
    )


def _people(dish: Dish) -> str:
    return "one person" if dish.serves == 1 else f"{dish.serves} people"


def _shopping(dish: Dish) -> Facet:
    listed = ", ".join(dish.ingredients[:-1]) + f" and {dish.ingredients[-1]}"
    return Facet(
        f"What do I have to buy for {dish.name}?",
        "What do I have to buy?",
        f"For {dish.name} you need {listed}. This is enough for {_people(dish)}.",
    )


def _time(dish: Dish, index: int) -> Facet:
    return Facet(
        rotate(_TIME, index).format(dish.name),
        "How long does it take?",
        f"It takes about {dish.minutes} minutes from beginning to end. The last step is this one: {dish.steps[-1]}",
    )


def _tip(dish: Dish, index: int) -> Facet:
    return Facet(
        rotate(_TIP, index).format(dish.name),
        "Do you have a tip?",
        f"{dish.tip} Also read the recipe to the end before you begin.",
    )

"""Thirteen questions about everyday nature, each answered in three paragraphs that also stand alone."""

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate

# topic -> a facet a paragraph; the first answer is the heart of the matter
ESSAYS: dict[str, tuple[Facet, Facet, Facet]] = {
    "the colour of the sky": (
        Facet(
            "Why is the sky blue?",
            "Why is the sky blue?",
            "Sunlight looks white, but it is a mixture of all colours. On its way through the air it meets molecules "
            "that are much smaller than the waves of light, and these scatter short waves far more strongly than long "
            "ones. Blue light has short waves, so it is sent in all directions, and it reaches our eyes from every "
            "part of the sky.",
        ),
        Facet(
            "Why are sunsets red?",
            "Then why are sunsets red?",
            "In the evening the Sun stands low, and its light has to cross a much longer stretch of air before it "
            "reaches us. On that long way most of the blue light is scattered out of the beam. What is left is mostly "
            "yellow, orange and red, so the Sun and the clouds near it glow in these colours.",
        ),
        Facet(
            "Why is the sky black on the Moon?",
            "And what does the sky look like on the Moon?",
            "The Moon has almost no air. Without air there is nothing that could scatter the light of the Sun, so the "
            "sky is black even at noon. The sunlit ground is so bright that cameras set for it cannot show the stars.",
        ),
    ),
    "the tides": (
        Facet(
            "What causes the tides?",
            "What causes the tides?",
            "The tides come mainly from the gravity of the Moon. The Moon pulls more strongly on the side of the Earth "
            "that faces it than on the far side, and this difference stretches the oceans into two bulges. The Earth "
            "turns beneath them, so most coasts see high water twice a day, about twelve hours and twenty-five minutes "
            "apart.",
        ),
        Facet(
            "What are spring tides and neap tides?",
            "Does the Sun have a part in it?",
            "The Sun raises tides as well, and they are a little less than half as strong as those of the Moon. At "
            "new moon and full moon both pull along one line, and the difference between high and low water is large: "
            "these are spring tides. At half moon they pull at right angles, and the small tides then are called neap "
            "tides.",
        ),
        Facet(
            "Why are tides so large in some bays?",
            "Why are the tides larger in some places?",
            "The shape of the coast matters a great deal. In the open ocean the water rises by less than a metre. In a "
            "bay that narrows like a funnel it is pushed together and climbs. In the Bay of Fundy in Canada the "
            "difference between low and high water can reach about sixteen metres.",
        ),
    ),
    "bread": (
        Facet(
            "Why does bread dough rise?",
            "Why does the dough rise?",
            "Dough rises because of yeast, a tiny fungus that feeds on sugar. As it feeds, it gives off carbon dioxide "
            "and a little alcohol. The gas collects in thousands of small bubbles, and the dough swells around them. "
            "In a warm kitchen this takes an hour or two, and in a cold place it takes all night.",
        ),
        Facet(
            "Why do bakers knead dough?",
            "And why do bakers knead it?",
            "Kneading builds a net. Two proteins in wheat flour join with water to form gluten, which is stretchy and "
            "strong. When the dough is pushed and folded, the strands line up and become a fine skin around the "
            "bubbles. Without this net the gas would escape, and the loaf would stay flat and dense.",
        ),
        Facet(
            "What happens to bread in the oven?",
            "What happens in the oven?",
            "In the first minutes the bubbles expand and the loaf springs up. Then the yeast dies, the starch takes up "
            "water and the gluten becomes firm, so the crumb keeps its shape. At the surface it gets hotter and drier, "
            "and there sugars and proteins react and give the crust its brown colour and its smell.",
        ),
    ),
    "rainbows": (
        Facet(
            "How does a rainbow form?",
            "How does a rainbow form?",
            "A rainbow appears when the Sun is behind you and rain falls in front of you. Light enters a drop, is "
            "bent, is reflected at the back of the drop, and is bent again as it leaves. Each colour is bent by a "
            "slightly different angle, so the white light is spread into a band from red to violet.",
        ),
        Facet(
            "Why is a rainbow round?",
            "Why is it round?",
            "The red light leaves the drops at about 42 degrees from the point opposite the Sun. All drops at that "
            "angle send red light to your eye, and together they form a circle. From the ground you see only the "
            "upper part, because the rest would be below the horizon. From an aeroplane the whole circle can be seen.",
        ),
        Facet(
            "What is a double rainbow?",
            "Why do I see two of them at times?",
            "Some light is reflected twice inside the drop before it leaves. It makes a second, wider and fainter bow "
            "outside the first one. Because of the second reflection its colours are in reverse order: red is on the "
            "inside and violet on the outside.",
        ),
    ),
    "the seasons": (
        Facet(
            "Why are there seasons?",
            "Why are there seasons?",
            "The axis of the Earth is tilted by about 23.4 degrees, and it points in the same direction all year. In "
            "June the northern half leans towards the Sun, so its days are long and the light falls steeply. In "
            "December it leans away, and the days are short and cold. In the southern half it is the other way round.",
        ),
        Facet(
            "Are we closer to the Sun in summer?",
            "Are we closer to the Sun then?",
            "The distance to the Sun has little to do with it. The Earth is closest to the Sun in early January, when "
            "it is winter in the north. The difference over the year is only about three percent. If distance were "
            "the reason, both halves of the Earth would have summer at the same time.",
        ),
        Facet(
            "Why is it warm all year near the equator?",
            "And what about the equator?",
            "Near the equator the Sun stands high at noon in every month, and all days are about twelve hours long. "
            "So it stays warm, and the year is divided by rain and not by temperature. Many places there have a wet "
            "season and a dry one.",
        ),
    ),
    "the water cycle": (
        Facet(
            "What is the water cycle?",
            "What is the water cycle?",
            "Water moves around the Earth without end. The Sun warms the sea, and some water rises as vapour. High up "
            "it cools and turns into droplets, which we see as clouds. Rain and snow bring it back, and rivers and "
            "ground water carry it to the sea again.",
        ),
        Facet(
            "How do clouds form?",
            "How do the clouds form?",
            "Warm air can hold more vapour than cold air. When moist air rises, it expands and cools until it cannot "
            "hold all of its vapour any longer. The rest settles on tiny grains of dust or salt and forms droplets. "
            "They are so small that slow currents of air keep them up.",
        ),
        Facet(
            "Where is most of the fresh water on Earth?",
            "Where is the fresh water?",
            "About 97 percent of all water on Earth is salt water in the oceans. Most of the rest is frozen in the ice "
            "of Antarctica and Greenland, and much of what remains lies under the ground. Rivers and lakes hold only a "
            "tiny share, and yet many towns drink from them.",
        ),
    ),
    "green leaves": (
        Facet(
            "How do plants make their food?",
            "How do plants make their food?",
            "Plants make sugar from air, water and light. Their leaves take in carbon dioxide through small pores, "
            "and their roots bring water. With the energy of light they join the two into sugar and give off oxygen. "
            "This is called photosynthesis, and almost all life depends on it.",
        ),
        Facet(
            "Why are leaves green?",
            "Why are leaves green?",
            "Leaves contain chlorophyll, the substance that catches the light. It takes up red and blue light well "
            "and green light less well. More of the green light is thrown back or passes through, so the leaf looks "
            "green to us.",
        ),
        Facet(
            "Why do leaves change colour in autumn?",
            "And why do they change colour in autumn?",
            "Before winter many trees take useful substances back from their leaves. The chlorophyll breaks down and "
            "is not replaced, and yellow and orange dyes that were there all summer become visible. Some trees, such "
            "as many maples, also make red dyes in autumn. At last a layer of cork closes the stem, and the leaf "
            "falls.",
        ),
    ),
    "sound": (
        Facet(
            "What is sound?",
            "What is sound?",
            "Sound is a wave of pressure. When a string or a drum skin moves to and fro, it pushes the air together "
            "and pulls it apart, and this pattern travels outward. In air at 20 degrees Celsius it moves at about 343 "
            "metres per second. In water it is more than four times as fast.",
        ),
        Facet(
            "Why is thunder later than lightning?",
            "Why do I hear thunder after the lightning?",
            "Light reaches you almost at once, and sound needs about three seconds for one kilometre. So count the "
            "seconds between the flash and the thunder and divide by three. The result is the distance in kilometres. "
            "Nine seconds, for example, mean that the lightning was about three kilometres away.",
        ),
        Facet(
            "What makes a note high or low?",
            "What makes a note high or low?",
            "The pitch depends on how many times a second the air moves to and fro. This number is the frequency, and "
            "its unit is the hertz. The note A that orchestras tune to has about 440 hertz. Twice the frequency sounds "
            "one octave higher. Young people can hear from about 20 to 20,000 hertz.",
        ),
    ),
    "magnets": (
        Facet(
            "How does a compass work?",
            "How does a compass work?",
            "A compass needle is a small magnet that can turn freely. The Earth has a magnetic field of its own, and "
            "the needle lines up with it. One end then points roughly to the north. It does not point exactly to the "
            "geographic pole, because the magnetic pole lies some distance away and moves from year to year.",
        ),
        Facet(
            "Why does the Earth have a magnetic field?",
            "Where does the field of the Earth come from?",
            "The outer core of the Earth is liquid iron with some nickel. It is hot, and it flows as the inside of the "
            "planet cools. Flowing metal that conducts electricity can keep a magnetic field alive, much like the "
            "dynamo of a bicycle. The field reaches far into space.",
        ),
        Facet(
            "What is an aurora?",
            "And how do the northern lights come about?",
            "The Sun sends out a stream of charged particles. The magnetic field guides some of them towards the "
            "polar regions, where they hit the upper air. The oxygen and nitrogen there begin to glow, most often in "
            "green and at times in red or violet. This is the aurora.",
        ),
    ),
    "sleep": (
        Facet(
            "Why do we sleep?",
            "Why do we sleep?",
            "Nobody knows every reason, but sleep is clearly needed. While we sleep the brain sorts what it has "
            "learned, the body repairs tissue, and the immune system does some of its work. People who sleep too "
            "little think more slowly and fall ill more easily.",
        ),
        Facet(
            "How much sleep do people need?",
            "How much sleep do people need?",
            "Most adults do well with seven to nine hours a night. Children need more: nine to twelve hours at school "
            "age. A newborn sleeps for most of the day. The right amount is the one after which you are awake and "
            "clear without an alarm.",
        ),
        Facet(
            "How can I sleep better?",
            "What can I do to sleep better?",
            "Go to bed and get up at the same time every day, also at weekends. Keep the bedroom dark, quiet and "
            "cool. Avoid coffee in the afternoon and bright screens late in the evening. If you lie awake for long, "
            "get up and do something calm. If the trouble lasts for weeks, ask a doctor.",
        ),
    ),
    "bicycles": (
        Facet(
            "Why does a bicycle have gears?",
            "Why does it have gears?",
            "Gears let your legs work at a steady pace while the road changes. In a low gear one turn of the pedals "
            "moves the bicycle only a short way, so climbing is easy. In a high gear one turn moves it far, which is "
            "good on flat roads and downhill. The energy for the hill is the same; you only spread it out.",
        ),
        Facet(
            "How do I look after a bicycle chain?",
            "How do I look after the chain?",
            "Wipe the chain with a dry cloth first. Then put a small drop of oil on each link while you turn the "
            "pedals backwards. Wait for a few minutes and wipe off what is left, because dirt sticks to wet oil. Do "
            "this every few weeks, and after each long ride in the rain.",
        ),
        Facet(
            "Which pressure do bicycle tyres need?",
            "And which pressure do the tyres need?",
            "The side of the tyre shows the permitted range. Wide tyres need less pressure than narrow ones. More "
            "pressure rolls faster on smooth roads, and less is softer and grips better on gravel. Tyres lose air "
            "slowly, so check them every two weeks.",
        ),
    ),
    "ice": (
        Facet(
            "Why does ice float on water?",
            "Why does ice float?",
            "Most substances become denser when they freeze, but water does not. In ice the molecules stand in an "
            "open pattern with more room between them than in the liquid. So ice is about nine percent larger than "
            "the water it came from, and it floats with about one tenth of its volume above the surface.",
        ),
        Facet(
            "Why do lakes not freeze to the bottom?",
            "Why do lakes freeze from the top?",
            "Fresh water is densest at about 4 degrees Celsius. In autumn the cooling water sinks until the whole "
            "lake has reached that temperature. Colder water then stays on top and freezes there. The ice keeps the "
            "cold air away, and fish survive the winter in the water below.",
        ),
        Facet(
            "Why is salt put on icy roads?",
            "And why do people put salt on icy roads?",
            "Salt water freezes at a lower temperature than fresh water. Salt dissolves in the thin film of water on "
            "the ice, and the mixture stays liquid below zero, so the ice melts. With common salt this works well "
            "down to about ten degrees below zero. Too much salt harms trees, so sand is used in many streets "
            "instead.",
        ),
    ),
    "learning by heart": (
        Facet(
            "How can I remember what I read?",
            "How can I remember what I read?",
            "Close the book and try to say what was in it. This effort of recalling makes memory stronger than "
            "reading the same page again. Write down three main points in your own words, then look at what you "
            "missed. It feels harder, and it works better.",
        ),
        Facet(
            "What is spaced repetition?",
            "When should I repeat it?",
            "Spaced repetition means to repeat at growing intervals: after one day, after three days, after a week, "
            "after a month. Each time you are about to forget and then recall it, the memory lasts longer. Many short "
            "sessions on different days do more than one long session.",
        ),
        Facet(
            "How do I learn the words of a new language?",
            "Does this work for the words of a language?",
            "It works very well for words. Make cards with a word on one side and its meaning on the other, and put "
            "those you know further back in the box. Learn whole sentences too, because they show how a word is used. "
            "Ten new words a day are more than three thousand in a year.",
        ),
    ),
}

# topics that are worth reading together
PAIRS = (
    ("the colour of the sky", "rainbows"),
    ("the tides", "the seasons"),
    ("the water cycle", "ice"),
    ("sleep", "learning by heart"),
    ("green leaves", "the seasons"),
)

_WHOLE = (
    "Please explain {0} to me in some detail.",
    "Write three paragraphs about {0}.",
    "I want to understand {0}. Please take your time and be thorough.",
)


def dialogues() -> list[Dialogue]:
    """Each essay as one long answer, as a chat and as a single question, and lectures on two of them."""
    chats: list[Dialogue] = []
    for index, (topic, facets) in enumerate(ESSAYS.items()):
        chats.append((Turn(rotate(_WHOLE, index).format(topic), _whole(topic)),))
        chats.append(chain(*facets) if index % 2 else chain(facets[0], facets[2]))
        chats.append(chain(facets[1 + index % 2]))
    chats += [(_lecture(first, second),) for first, second in PAIRS]
    return chats


def _whole(topic: str) -> str:
    return "\n\n".join(facet.answer for facet in ESSAYS[topic])


def _lecture(first: str, second: str) -> Turn:
    return Turn(
        f"Please give me a long text to read aloud, first about {first} and then about {second}.",
        f"This text has two parts. The first part is about {first}.\n\n{_whole(first)}\n\n"
        f"The second part is about {second}.\n\n{_whole(second)}",
    )

"""Three hundred strings that are against a screen."""

_ATOMS = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;aGk=\x07",
    "\x1b[2J\x1b[H",
    "\x1bP+q\x1b\\",
    "\x9b31m",
    "\x9d0;t\x9c",
    "\x85\x84\x90",
    "\x00\x01\x08\x0b\x0c\x7f",
    "\r overwritten",
    "a\tb",
    "two\nlines",
    "\u202eevil\u202c",
    "\u2066iso\u2069",
    "\u200e\u200f\u061c",
    "\u2028\u2029",
    "[/]",
    "[bold]",
    "[@click=quit]x[/]",
    "[red",
    "]]]",
    "\\[x]",
    "$primary",
    "[link=http://x]y[/link]",
    "e\u0301\u0301\u0301",
    "\u0301alone",
    "Z\u0336" * 40 + "\u0316" * 200,
    "数据集",
    "ｆｕｌｌ",
    "한국어",
    "👨\u200d👩\u200d👧",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "🇩🇪",
    "👍🏽",
    "\u200b\u200d\ufeff",
    "\u00ad\u2060",
    "\U000e0041\U000e007f",
    "\ud800 lone surrogate",
    "नमस्ते",
    "العربية",
    "\u1112\u1161",
    "\ufff9\ufffc",
    "a" * 500,
    "数" * 300,
    "",
    " ",
    "%s %d {x} {0}",
    "\\x1b",
]


def _mixed(count):
    pairs = ((first, second) for step in range(1, 9) for first, second in zip(_ATOMS, _ATOMS[step:], strict=False))
    return [f"{first}|{second}" for first, second in pairs][:count]


STRINGS = [*_ATOMS, *_mixed(300 - len(_ATOMS))]

CONTROLS = {chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]} | set(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# What makes terminals disagree on how wide the rest is.
WIDTHLESS = set("\u200b\u200c\u200d\ufe0f\ufeff\u2060\u00ad")

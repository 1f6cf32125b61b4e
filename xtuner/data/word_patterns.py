"""What the patterns say by which tokenizers cut text into words: read, and put in other words, without running them."""

import re
import unicodedata


def in_ascii(pattern: str) -> str:
    """`pattern` for text of ASCII alone, without classes of Unicode, which Python's own engine does not know."""
    is_in_set = False

    def translate(match: re.Match[str]) -> str:
        nonlocal is_in_set
        if match[1] is None:
            is_in_set = match[0].startswith("[") or (is_in_set and match[0] != "]")
            return match[0]
        characters = (chr(code) for code in range(128))
        members = "".join(re.escape(c) for c in characters if unicodedata.category(c).startswith(match[1]))
        return members if is_in_set else f"[{members}]"

    return _UNICODE_CLASS.sub(translate, pattern)


# A class of Unicode, or what tells whether it stands inside a set.
_UNICODE_CLASS = re.compile(r"\\p\{(\w+)\}|\\.|\[\^?|\]")


def cuts_at_blanks(patterns: list[str]) -> bool:
    """Whether a blank (U+0020) behind anything but white space always begins a word, and nothing looks past it.

    So it is when a match holds a blank as its first character alone, or is all white space, and each blank is in some
    match; then the words of a text are those of its parts, cut in front of such blanks. Said of patterns that are
    understood: "no" for all others.
    """
    return all(map(_holds_blanks_first, patterns)) and re.search(r"(^|\|)\\s\+$", patterns[-1]) is not None


_ATOM = re.compile(
    r"\\p\{\w+\}|\\.|\[\^?(?:\\p\{\w+\}|\\.|[^\[\]\\])+\]"  # a class, a set of them
    r"|\(\?!\\S\)|\(\?i:|\(\?:|[()|]|[?*+]|\{\d+(?:,\d*)?\}|.",
    re.DOTALL,
)
_WHITE = re.compile(r"\\[srnt]| |\[(?:\\[srnt]| )+\]|[?*+]|\{.*\}|\(\?!\\S\)")
# Of what can be no blank: letters, marks, numbers, signs; line breaks; escaped signs.
_NO_BLANK = re.compile(r"\\p\{[LMNPS]\w?\}|\\[rntS]|\\[^\w\s]|[^\\ .^$\[\](]")
_MARKS = ("(?!\\S)", "(?i:", "(?:", ")", "?", "*", "+")


def _holds_blanks_first(pattern: str) -> bool:
    depth, alternatives = 0, [[""]]
    for atom in _ATOM.findall(pattern):
        depth += (atom in ("(", "(?i:", "(?:")) - (atom == ")")
        if atom == "|" and depth == 0:
            alternatives.append([""])
        else:
            alternatives[-1].append(atom)
    return all(_is_white_or_begins_with_blank(atoms[1:]) for atoms in alternatives)


def _is_white_or_begins_with_blank(atoms: list[str]) -> bool:
    if all(map(_WHITE.fullmatch, atoms)):
        return True
    is_repeated = atoms[1:2] and (atoms[1] in "*+" or atoms[1].startswith("{"))
    first = 0 if is_repeated or atoms[0].startswith("(") else 1
    return not any(map(_can_be_blank, atoms[first:]))


def _can_be_blank(atom: str) -> bool:
    """Whether a part of a pattern can stand for a blank, or is not understood."""
    if atom in _MARKS or atom == "|" or re.fullmatch(r"\{\d+(,\d*)?\}", atom):
        return False
    if atom.startswith("[") and len(atom) > 1:
        members = _ATOM.findall(atom.removeprefix("[").removeprefix("^")[:-1])
        if atom.startswith("[^"):
            return not {"\\s", " "} & set(members)
        reaches_over = "-" in members and bool({r"\r", r"\n", r"\t"} & set(members))  # as in [\t-~]
        return reaches_over or not all(map(_NO_BLANK.fullmatch, members))
    return _NO_BLANK.fullmatch(atom) is None

"""Command lines that bash reads back as they were, whatever their arguments hold, and that are safe to print."""

import os
import re
import shlex
from collections.abc import Iterable

from xtuner.run.text import visible


def shell_join(command: Iterable[str]) -> str:
    """One line for bash; what a terminal would act on, and line ends, as escapes in `$'...'`."""
    return " ".join(map(shell_quote, command))


def shell_quote(argument: str) -> str:
    """One word for bash."""
    if visible(argument) == argument and not re.search(r"[\n\t]", argument):
        return shlex.quote(argument)
    # As bytes: what \u means depends on the locale, and names of files need not be text.
    return "$'" + "".join(map(_escaped, argument)) + "'"


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if visible(character) == character and character not in "\n\t":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))

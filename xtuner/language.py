"""The language of the interface: English as it stands in the code, others from the gettext catalogues beside it."""

import gettext
import os
from collections.abc import Mapping
from pathlib import Path

LANGUAGES = ("en", "zh")
_LOCALES = {"zh": "zh_CN"}  # English needs none
_DIRECTORY = Path(__file__).with_name("locale")
# In the order of GNU gettext: https://www.gnu.org/software/gettext/manual/html_node/Locale-Environment-Variables.html
_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")

_catalogue = gettext.NullTranslations()


def speak(language: str) -> None:
    """Answer `_` in `language`, one of `LANGUAGES`, from now on and in every thread.

    Raises:
        FileNotFoundError: the catalogue is not installed.
    """
    global _catalogue
    if language not in _LOCALES:
        _catalogue = gettext.NullTranslations()
    else:
        _catalogue = gettext.translation("xtuner", _DIRECTORY, [_LOCALES[language]])


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """The language that the environment asks for: the first one of a list that we have, else English."""
    said = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    spoken = (locale.strip().lower()[:2] for locale in said.split(":"))
    return next((language for language in spoken if language in LANGUAGES), "en")


def _(message: str) -> str:
    """`message` in the language that is spoken; in English where the catalogue does not have it."""
    return _catalogue.gettext(message) if message else ""  # an empty one would be the catalogue's header


def N_(message: str) -> str:  # the name that gettext's tools know
    """Mark `message`, which stands in a constant, for the catalogue; `_` translates it where it is shown."""
    return message

"""The keys at the foot of the screen, in the language that is spoken."""

from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

from xtuner.language import _


class KeyHints(Footer):
    """Textual's footer; bindings are declared once a class, before a language is chosen."""

    def compose(self) -> ComposeResult:
        """The keys, their descriptions translated."""
        for key in super().compose():
            if isinstance(key, FooterKey):
                key.description = _(key.description)
            yield key

"""Which key does something now, for texts that name it: the user may have given it another."""

from typing import Any

from textual.screen import Screen


def key_of(screen: Screen[Any], action: str) -> str:
    """The key of a binding by its id, as the footer shows it; empty where it is not heard."""
    active = screen.active_bindings.values()
    return next((screen.app.get_key_display(one.binding) for one in active if one.binding.id == action), "")

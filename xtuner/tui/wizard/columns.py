"""Text in columns of cells: a Chinese character takes two of them."""

from rich.cells import cell_len


def left(text: str, width: int) -> str:
    """`text` at the left of `width` cells; longer text stays whole."""
    return text + " " * (width - cell_len(text))


def right(text: str, width: int) -> str:
    """`text` at the right of `width` cells; longer text stays whole."""
    return " " * (width - cell_len(text)) + text

"""Numbers of bytes as people read them."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def shown_size(num_bytes: int) -> str:
    """Bytes in a unit that fits: `812 B`, `12.0 KiB`, `1.4 GiB`."""
    size, place = float(num_bytes), 0
    while size >= 1024 and place < len(_UNITS) - 1:
        size, place = size / 1024, place + 1
    return f"{size:.1f} {_UNITS[place]}" if place else f"{num_bytes} B"

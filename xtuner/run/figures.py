"""Figures of a run as people read them."""

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def duration(seconds: float | None) -> str:
    """Seconds as `1:02:03`; a dash for what is not known or not finite."""
    if seconds is None or not abs(seconds) < 1e12:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def file_size(num_bytes: int) -> str:
    """Bytes in a unit that fits: `812 B`, `1.4 GiB`."""
    size, place = float(num_bytes), 0
    while size >= 1024 and place < len(_BYTE_UNITS) - 1:
        size, place = size / 1024, place + 1
    return f"{size:.1f} {_BYTE_UNITS[place]}" if place else f"{num_bytes} B"

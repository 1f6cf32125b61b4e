"""Figures of a run as people read them."""


def duration(seconds: float | None) -> str:
    """Seconds as `1:02:03`; a dash for what is not known or not finite."""
    if seconds is None or not abs(seconds) < 1e12:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"

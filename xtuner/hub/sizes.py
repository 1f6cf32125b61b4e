"""Bytes in words."""


def shown_size(num_bytes: int) -> str:
    """`1.5 GiB`, `20.0 MiB`, `12 KiB`, `7 B`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes // 2**10} KiB" if num_bytes >= 2**10 else f"{num_bytes} B"

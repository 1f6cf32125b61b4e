"""Paths completed from their beginning."""

import os
import shlex


def complete(text: str, *, is_list: bool) -> str | None:
    """`text` with its last path completed by the first name that fits; None where none does.

    Args:
        text: what was typed so far.
        is_list: whether paths stand there as in a shell, with quotes and spaces between.
    """
    if not is_list:
        return _complete_path(text)
    try:
        paths = shlex.split(text)
    except ValueError:  # within a quote
        return None
    if not paths or text != text.rstrip():
        return None
    whole = _complete_path(paths[-1])
    if whole is None:
        return None
    completed = text[: len(text) - len(paths[-1])] + shlex.quote(whole)
    # Quotes that the completed path needs would stand before what was typed.
    return completed if completed.startswith(text) else None


def _complete_path(text: str) -> str | None:
    directory, _, begin = text.rpartition("/")
    folder = os.path.expanduser(f"{directory}/") if "/" in text else "."
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry.name, entry.is_dir())
                for entry in entries
                if entry.name.startswith(begin) and (begin.startswith(".") or not entry.name.startswith("."))
            )
    except (OSError, ValueError):
        return None
    if not text or not found:
        return None
    name, is_dir = found[0]
    return f"{text[: len(text) - len(begin)]}{name}{'/' if is_dir else ''}"

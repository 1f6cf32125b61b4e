"""`xtuner cache`: what was tokenised and kept."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from xtuner.byte_size import shown_size
from xtuner.cli import console
from xtuner.errors import UsageError

if TYPE_CHECKING:
    from xtuner.data.cache import CacheEntry, TokenCache

_HEADER = ("name", "size", "rows", "tokens", "used", "data")


def command(
    action: Literal["ls", "rm"] = typer.Argument(..., metavar="ls|rm", help="List, or delete."),
    names: list[str] = typer.Argument(None, metavar="[NAME...]", help="With rm: which, by the beginning of a name."),
    unused_days: float | None = typer.Option(
        None, min=0, metavar="DAYS", help="With rm: all that was not used for so long."
    ),
    all: bool = typer.Option(False, "--all", help="With rm: everything."),
    cache_dir: Path | None = typer.Option(None, metavar="DIR", help="The cache.  [default: the user's cache]"),
    json: bool = typer.Option(False, "--json", help="With ls: print the list as JSON."),
) -> None:
    """List or delete the tokenised data that runs keep, so that a second start needs no tokenising.

    \b
    Example:
      xtuner cache ls
      xtuner cache rm --unused-days 30
    """
    from xtuner.data.cache import TokenCache

    cache = TokenCache(cache_dir)
    if action == "ls":
        if names or unused_days is not None or all:
            raise UsageError("`cache ls` takes no names and no --all", hint="did you mean: xtuner cache rm")
        _list(cache, as_json=json)
    else:
        _remove(cache, names or [], unused_days, everything=all)


def _list(cache: "TokenCache", *, as_json: bool) -> None:
    entries = cache.entries()
    if as_json:
        console.data_json(
            [
                {
                    "name": entry.name,
                    "bytes": entry.num_bytes,
                    "rows": entry.num_rows,
                    "tokens": entry.num_tokens,
                    "used": entry.used_at,
                    "data": entry.source,
                }
                for entry in entries
            ]
        )
        return
    if not entries:
        console.say(f"{cache.directory} holds nothing")
        return
    console.data("\n".join(_table(entries)))
    console.say(f"{shown_size(sum(entry.num_bytes for entry in entries))} in {cache.directory}")


def _table(entries: "list[CacheEntry]") -> list[str]:
    rows = [
        (
            entry.name,
            shown_size(entry.num_bytes),
            f"{entry.num_rows:,}",
            f"{entry.num_tokens:,}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_at)),
            entry.source,
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in (_HEADER, *rows)) for column in range(len(_HEADER))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (_HEADER, *rows)]


def _remove(cache: "TokenCache", names: list[str], unused_days: float | None, *, everything: bool) -> None:
    if everything:
        num_bytes = sum(entry.num_bytes for entry in cache.entries())
        cache.remove_all()
        console.say(f"deleted {cache.directory}, {shown_size(num_bytes)}")
        return
    if not names and unused_days is None:
        raise UsageError("`cache rm` needs to know what", hint="name stores, or pass --unused-days DAYS or --all")
    entries = cache.entries()
    for name in names:
        if not any(entry.name.startswith(name) for entry in entries):
            raise UsageError(f"the cache holds no {name}", hint="xtuner cache ls lists the names")
    before = None if unused_days is None else time.time() - unused_days * 86_400
    doomed = [
        entry
        for entry in entries
        if any(entry.name.startswith(name) for name in names) or (before is not None and entry.used_at < before)
    ]
    for entry in doomed:
        cache.remove(entry)
    swept = cache.sweep()
    console.say(f"deleted {len(doomed):,} stores, {shown_size(sum(entry.num_bytes for entry in doomed))}")
    if swept:
        console.say(f"deleted {swept:,} leftovers of runs that did not end")

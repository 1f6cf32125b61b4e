"""Progress bars: on a terminal a bar, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from xtuner.cli import console
from xtuner.run.text import visible

if TYPE_CHECKING:
    from xtuner.data.prepare import Progress
    from xtuner.hub.judge_bytes import ScanProgress
    from xtuner.hub.transfer import TransferProgress

_SAY_EVERY_S = 5.0
_Progress = TypeVar("_Progress")


@contextmanager
def tokenising_bar() -> Iterator["Callable[[Progress], None]"]:
    """A function to call with each `Progress`; what it drew is gone when the block ends."""
    if not sys.stderr.isatty():
        yield _say_now_and_then()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rows]} rows  {task.fields[speed]} rows/s{task.fields[errors]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("tokenising", total=None, rows="0", speed="-", errors="")

        def show(progress: "Progress") -> None:
            bar.update(
                task,
                description=f"tokenising {escape(visible(progress.path.name))}",
                total=progress.total_bytes,
                completed=progress.read_bytes,
                rows=f"{progress.rows:,}",
                speed=f"{progress.rows_per_s:,.0f}",
                errors=f"  {progress.errors:,} in error" if progress.errors else "",
            )

        yield show


@contextmanager
def downloading_bar() -> Iterator["tuple[Callable[[TransferProgress], None], Callable[[str], None]]"]:
    """Functions to call with each `TransferProgress` and each notice: a bar for the whole, one for the current file."""
    if not sys.stderr.isatty():
        yield _say_now_and_then(), console.say
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[speed]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        whole = bar.add_task("downloading", total=None, speed="")
        file = bar.add_task("", total=None, speed="", visible=False)

        def show(progress: "TransferProgress") -> None:
            bar.update(
                whole,
                description=f"{progress.num_done} of {progress.num_files} files",
                total=progress.total_bytes,
                completed=progress.done_bytes,
                speed=f"{progress.speed}  {progress.time_left}",
            )
            if progress.current is not None:
                bar.update(
                    file,
                    description=escape(visible(progress.current.path)),
                    total=progress.current.size,
                    completed=progress.current_bytes,
                    visible=True,
                )

        yield show, lambda text: bar.console.print(visible(text), markup=False, highlight=False)


class _Sentence(Protocol):
    def sentence(self) -> str: ...


def _say_now_and_then() -> Callable[[_Sentence], None]:
    return say_now_and_then(lambda progress: progress.sentence())


def say_now_and_then(words: Callable[[_Progress], str]) -> Callable[[_Progress], None]:
    """A function to call with each progress; every few seconds it says `words` of it on a line."""
    said_at = time.monotonic()

    def say(progress: _Progress) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            console.say(words(progress))

    return say


@contextmanager
def scanning_bar() -> Iterator["Callable[[ScanProgress], None]"]:
    """The same for the bytes of weight files."""
    if not sys.stderr.isatty():
        yield _say_gibs_now_and_then()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("reading weights", total=None)
        yield lambda progress: bar.update(task, total=progress.total_bytes, completed=progress.read_bytes)


def _say_gibs_now_and_then() -> "Callable[[ScanProgress], None]":
    said_at = time.monotonic()

    def say(progress: "ScanProgress") -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            console.say(f"read {progress.read_bytes / 2**30:.1f} of {progress.total_bytes / 2**30:.1f} GiB of weights")

    return say


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A function to call with a growing number, shown on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.status import Status

    with Status(what, console=Console(stderr=True)) as status:
        yield lambda number: status.update(f"{number:,} {what}")

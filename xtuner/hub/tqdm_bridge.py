"""The progress bars that huggingface_hub draws, turned into a function call: this program draws its own."""

import threading
from collections.abc import Callable
from typing import Any


def silent_bar() -> type[Any]:
    """A class for `tqdm_class=` that shows nothing."""
    return counting_bar(lambda num_bytes: None)


def counting_bar(on_bytes: Callable[[int], None]) -> type[Any]:
    """A class for `tqdm_class=` that shows nothing and calls `on_bytes` with each number of new bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class CountingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # huggingface_hub's own word, which tqdm does not know
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            on_bytes(int(n or 0))
            return None

    # The default is a lock of processes too, whose tracking process cannot be started while a screen has stderr.
    CountingBar.set_lock(threading.RLock())
    return CountingBar

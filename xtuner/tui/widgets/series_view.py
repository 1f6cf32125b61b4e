"""What a chart asks of the data it draws; `xtuner.run.series` answers it."""

from collections.abc import Sequence
from typing import Protocol


class ColumnView(Protocol):
    """What lies in one column of a chart; where no finite value does, `low > high`."""

    @property
    def low(self) -> float:
        """The smallest finite value."""

    @property
    def high(self) -> float:
        """The largest finite value."""

    @property
    def last(self) -> float:
        """The last finite value."""

    @property
    def num_bad(self) -> int:
        """How many values are NaN or infinite."""


class SeriesView(Protocol):
    """Values over x, which does not decrease."""

    def __len__(self) -> int: ...

    def x_range(self) -> tuple[float, float] | None:
        """First and last x; None while there is no value."""

    def columns(self, begin: float, end: float, num_columns: int) -> Sequence[ColumnView]:
        """The values of `[begin, end]` in so many equal parts."""

    def value_at(self, x: float) -> tuple[float, float] | None:
        """x and value of the newest sample at or before `x`."""

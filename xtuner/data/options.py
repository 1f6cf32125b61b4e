"""How rows become training sequences: the choices and their names.

Shared by the flags, the cache keys and the workers; imports nothing but the standard library.
"""

from dataclasses import dataclass
from typing import Literal, get_args

FormatName = Literal["auto", "messages", "sharegpt", "alpaca", "text"]
MaskPolicy = Literal["all-assistant", "last-assistant", "full"]
Overlong = Literal["truncate", "drop", "split", "error"]
Packing = Literal["best-fit", "none"]

FORMATS: tuple[str, ...] = get_args(FormatName)[1:]


@dataclass(frozen=True)
class RowOptions:
    """What is done to each row, all of it part of the cache key.

    Attributes:
        max_tokens: tokens a sequence may have.
        overlong: what happens to a longer one.
        mask_policy: which text is trained; a message's own `loss` wins over it.
    """

    max_tokens: int = 4096
    overlong: Overlong = "truncate"
    mask_policy: MaskPolicy = "all-assistant"


@dataclass(frozen=True)
class SourceSpec:
    """Data as the user names it.

    Attributes:
        path: a file, a directory or a glob.
        ratio: how often each row is used: 0.5 takes half of the rows, 2 takes each twice.
        format: the shape of its rows; `auto` looks at the first row of each file.
    """

    path: str
    ratio: float = 1.0
    format: FormatName = "auto"

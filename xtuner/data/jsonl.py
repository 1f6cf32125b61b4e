"""One line of a JSONL file, bytes to value, and everything that can be wrong with it."""

import json
import math
from collections import Counter
from typing import Any, NoReturn

from xtuner.data.problems import RowError, shown

# A row of chats is kilobytes; a line beyond this is a file that is not JSONL, and must not fill the memory.
MAX_LINE_BYTES = 64 * 2**20


class _DuplicateKey(ValueError):
    pass


class _NotANumber(ValueError):
    pass


def parse_line(line: bytes, where: str, *, is_last: bool = False) -> Any:
    """The JSON value of `line`.

    Args:
        line: one line, with or without its line end.
        where: file and line, for messages.
        is_last: whether the file ends with this line; without a line end it may be cut.

    Raises:
        RowError: not UTF-8, not one JSON value, or one that does not say the same to every reader.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        if is_last and error.reason == "unexpected end of data":
            raise _cut(where, "inside a character") from None
        raise RowError(
            "NOT_UTF8",
            f"{where}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8",
            hint="convert the file with: iconv -f ENCODING -t UTF-8",
        ) from None
    try:
        value = _DECODER.decode(text)
        # Only an escape can bring in half of a surrogate pair, which has no bytes to train on.
        has_bytes = b"\\u" not in line or _has_bytes(value)
    except json.JSONDecodeError as error:
        if is_last and not line.endswith(b"\n"):
            raise _cut(f"{where}:{error.colno}", error.msg) from None
        raise RowError(
            "INVALID_JSON",
            f"{where}:{error.colno}: invalid JSON: {error.msg}",
            hint="each line must be one complete JSON value",
        ) from None
    except RecursionError:
        raise RowError(
            "TOO_DEEP", f"{where}: the JSON is nested too deeply", hint="a chat is a list of messages"
        ) from None
    except ValueError as error:
        raise _refused_value(where, error) from None
    if not has_bytes:
        raise RowError(
            "LONE_SURROGATE",
            f"{where}: a string holds half of a surrogate pair",
            hint="write it as \\ud83d\\ude00 pairs",
        )
    return value


def parse_string(text: str) -> Any:
    """The JSON value that a string of a row holds (tool calls, tools), read as strictly as a line.

    Raises:
        ValueError: it is no JSON value, or one that `parse_line` refuses.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text and not _has_bytes(value):
        raise ValueError("a string holds half of a surrogate pair")
    return value


def _cut(where: str, detail: str) -> RowError:
    return RowError(
        "CUT_LINE",
        f"{where}: the file ends inside this line: {detail}",
        hint="the file is still being written or was cut; finish or remove the last line",
    )


def _refused_value(where: str, error: ValueError) -> RowError:
    code = {_DuplicateKey: "DUPLICATE_KEY", _NotANumber: "NOT_A_NUMBER"}.get(type(error), "INVALID_JSON")
    return RowError(code, f"{where}: invalid JSON: {error}", hint="each line must be one JSON value")


def _has_bytes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _DuplicateKey(f"the key {shown(twice)} stands twice in one object")
    return unique


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotANumber(f"{text[:40]} is larger than a number can be")
    return number


# Made once: json.loads builds a new decoder at each call with hooks.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)

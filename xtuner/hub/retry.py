"""When a request is tried again, and after how long."""

import time
from collections.abc import Callable
from typing import TypeVar

Notice = Callable[[str], None]
T = TypeVar("T")
_sleep = time.sleep

MAX_TRIES = 5
# A server that asks for more has closed for the day; the user should know at once.
MAX_WAIT_S = 300.0
_FIRST_WAIT_S = 1.0
_STATUSES = {408, 429, 500, 502, 503, 504}


def patiently(request: Callable[[], T], on_notice: Notice) -> T:
    """What `request` returns, asked again while the server says that it is busy.

    Without any connection it is not asked again: most often there will be none in a minute either.

    Raises:
        Exception: what the last try raised.
    """
    for num_failed in range(1, MAX_TRIES + 1):
        try:
            return request()
        except Exception as error:
            wait_s = wait_before_retry(error, num_failed)
            if wait_s is None or status_of(error) is None:
                raise
            on_notice(describe_wait(error, wait_s))
        _sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def wait_before_retry(error: Exception, num_failed: int) -> float | None:
    """Seconds to wait after `num_failed` tries in a row, or None when there is no use in another one."""
    if num_failed >= MAX_TRIES or not _is_passing(error):
        return None
    wait_s = _retry_after_s(error)
    if wait_s is None:
        return _FIRST_WAIT_S * 2.0 ** (num_failed - 1)
    return wait_s if wait_s <= MAX_WAIT_S else None


def describe_wait(error: Exception, wait_s: float) -> str:
    """One line on why nothing happens for a while."""
    status = status_of(error)
    reason = f"the server is busy (HTTP {status})" if status else f"the connection broke ({type(error).__name__})"
    return f"{reason}; trying again in {wait_s:.0f} s"


def status_of(error: BaseException) -> int | None:
    """The HTTP status that `error` or its cause came with."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    return status_of(error.__cause__) if error.__cause__ is not None else None


def _is_passing(error: BaseException) -> bool:
    status = status_of(error)
    return status in _STATUSES if status is not None else is_broken_connection(error)


def is_broken_connection(error: BaseException) -> bool:
    """Whether `error`, or what caused it, is of the transport: no connection, a broken one, a silent one."""
    from huggingface_hub.errors import HfHubHTTPError

    # The base of huggingface_hub's errors is that of its HTTP client: httpx in some releases, httpx2 in others.
    http_error = HfHubHTTPError.__bases__[0]
    if isinstance(error, http_error) and not isinstance(error, HfHubHTTPError):
        return True
    return error.__cause__ is not None and is_broken_connection(error.__cause__)


def _retry_after_s(error: BaseException) -> float | None:
    """`Retry-After` in seconds; its other form, a date, is not looked at."""
    response = getattr(error, "response", None)
    if response is not None:
        text = response.headers.get("Retry-After", "").strip()
        return float(text) if text.isdigit() and len(text) < 10 else None
    return _retry_after_s(error.__cause__) if error.__cause__ is not None else None

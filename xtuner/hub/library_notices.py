"""What huggingface_hub logs (a wait for a server, a connection that it resumes), as notices of this program."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from xtuner.hub.findings import shown
from xtuner.hub.hub_client import HubClient
from xtuner.hub.retry import Notice

_MAX_CHARS = 300


@contextmanager
def library_notices(client: HubClient, on_notice: Notice) -> Iterator[None]:
    """Until the block ends, warnings of huggingface_hub go to `on_notice`, one line each, and not to stderr."""
    logger = logging.getLogger("huggingface_hub")
    handlers, logger.handlers = logger.handlers, [_NoticeHandler(client, on_notice)]
    try:
        yield
    finally:
        logger.handlers = handlers


def silence_library() -> None:
    """From now on what huggingface_hub logs is lost, but for `library_notices`.

    For programs with a screen: a thread that a stopped download left waiting may still have something to say, and
    would say it across the screen.
    """
    from huggingface_hub.utils import logging as library_logging

    library_logging.get_logger().handlers = [logging.NullHandler()]


class _NoticeHandler(logging.Handler):
    def __init__(self, client: HubClient, on_notice: Notice) -> None:
        super().__init__(logging.WARNING)
        self._client = client
        self._on_notice = on_notice

    def emit(self, record: logging.LogRecord) -> None:
        self._on_notice(shown(self._client.redact(record.getMessage()), _MAX_CHARS))

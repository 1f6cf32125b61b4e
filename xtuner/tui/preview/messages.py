"""What threads tell the screen; widgets are touched by its own thread alone."""

from textual.message import Message

from xtuner.errors import XTunerError
from xtuner.tui.preview.scan import Step
from xtuner.tui.preview.shower import ShownRow, ShowRequest
from xtuner.tui.preview.summary import Summary


class IndexGrew(Message):
    """More rows are known; a later one says it all."""

    def can_replace(self, message: Message) -> bool:
        """Whether this takes the place of `message` in the queue."""
        return isinstance(message, IndexGrew)


class IndexStopped(Message):
    """No more rows can be read."""

    def __init__(self, error: XTunerError | OSError) -> None:
        super().__init__()
        self.error = error


class Summarised(Message):
    """Summaries of rows in the list."""

    def __init__(self, summaries: dict[int, Summary]) -> None:
        super().__init__()
        self.summaries = summaries


class Shown(Message):
    """A row, laid out."""

    def __init__(self, request: ShowRequest, shown: ShownRow) -> None:
        super().__init__()
        self.request = request
        self.shown = shown


class Found(Message):
    """How far a search came; `text` tells which."""

    def __init__(self, text: str, origin: int, step: Step, is_done: bool) -> None:
        super().__init__()
        self.text = text
        self.origin = origin
        self.step = step
        self.is_done = is_done


class ErrorSought(Message):
    """How far the look for a row in error came; `row` is the one that was found."""

    def __init__(self, origin: int, row: int | None, is_done: bool, num_scanned: int) -> None:
        super().__init__()
        self.origin = origin
        self.row = row
        self.is_done = is_done
        self.num_scanned = num_scanned


class Crashed(Message):
    """A thread met a bug of ours, or the disk failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

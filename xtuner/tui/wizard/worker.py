"""The two threads behind the screen: one judges answers and keeps them, one looks at the data."""

from collections.abc import Callable

from textual.message import Message

from xtuner.errors import XTunerError
from xtuner.tui.preview.background import Background, IsStale
from xtuner.tui.wizard.answers import Answers, keep
from xtuner.tui.wizard.candidates import Candidate, find_models
from xtuner.tui.wizard.data_look import DataLook, LookRequest, Stale, look_at
from xtuner.tui.wizard.inspection import Inspection, Inspector


class Inspected(Message):
    """Answers were judged."""

    def __init__(
        self, answers: Answers, inspection: Inspection, candidates: list[Candidate], failure: XTunerError | None
    ) -> None:
        super().__init__()
        self.answers = answers
        self.inspection = inspection
        self.candidates = candidates
        self.failure = failure


class Looked(Message):
    """The data is known a little better; `request` tells which."""

    def __init__(self, request: LookRequest, look: DataLook) -> None:
        super().__init__()
        self.request = request
        self.look = look


class Crashed(Message):
    """A thread met a bug of ours."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Worker:
    """Starts both threads; `post` takes their messages."""

    def __init__(self, inspector: Inspector, post: Callable[[Message], object]) -> None:
        self._inspector = inspector
        self._post = post

        def crashed(error: Exception) -> None:
            post(Crashed(error))

        self._inspecting = Background("wizard-inspect", self._inspect, crashed)
        self._looking = Background("wizard-look", self._look, crashed)
        self._request: LookRequest | None = None

    def inspect(self, answers: Answers) -> None:
        """Judge these answers next."""
        self._inspecting.ask(answers.copy())

    def look(self, request: LookRequest | None) -> bool:
        """Look at this data next, unless that was the last thing asked for; whether it is another one."""
        key = request.key() if request else None
        if key == (self._request.key() if self._request else None):
            return False
        self._request = request
        if request is None:
            self._looking.cancel()
        else:
            self._looking.ask(request)
        return True

    def stop(self) -> None:
        """End both at their next look at whether they are still wanted."""
        self._inspecting.stop()
        self._looking.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for both; whether they have ended."""
        return self._inspecting.join(timeout_s) and self._looking.join(timeout_s)

    def _inspect(self, answers: Answers, is_stale: IsStale) -> None:
        failure: XTunerError | None = None
        try:
            keep(answers)
        except XTunerError as error:
            failure = error
        inspection = self._inspector.inspect(answers)
        candidates = find_models(inspection.plan.config.work_dir)
        if not is_stale():
            self._post(Inspected(answers, inspection, candidates, failure))

    def _look(self, request: LookRequest, is_stale: IsStale) -> None:
        def tell(look: DataLook) -> None:
            if not is_stale():
                self._post(Looked(request, look))

        try:
            look_at(request, tell, is_stale)
        except Stale:
            pass

"""A model of the Hub, downloaded while the screen goes on. Nothing is asked of the network before `begin`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from textual.message import Message

from xtuner.errors import StoppedAndSaved, XTunerError
from xtuner.hub.cache_download import CacheDownload, cached_model, plan_into_cache
from xtuner.hub.hub_client import Endpoint, choose_endpoint
from xtuner.hub.hub_repo import parse_repo
from xtuner.hub.library_notices import silence_library
from xtuner.hub.transfer import Transfer, TransferProgress
from xtuner.tui.preview.background import Background, IsStale
from xtuner.tui.wizard.worker import Crashed

Stage = Literal["cached", "asking", "planned", "fetching", "stopped", "failed", "done"]


@dataclass(frozen=True)
class DownloadState:
    """How far it is.

    Attributes:
        answer: to the question for the model, as it was typed.
        stage: what is going on.
        endpoint: the Hub that is asked; None when that is a mistake itself.
        planned: what is to be fetched, once the Hub has said it.
        progress: of the bytes.
        notice: the last thing that huggingface_hub or a server had to say.
        error: why it stopped or failed.
        model_dir: what is in the Hub cache, before or in the end.
    """

    answer: str
    stage: Stage
    repo_id: str = ""
    revision: str = ""
    endpoint: Endpoint | None = None
    planned: CacheDownload | None = None
    progress: TransferProgress | None = None
    notice: str = ""
    error: XTunerError | None = None
    model_dir: Path | None = None


class Told(Message):
    """A download went on; `request` is the state that it began this part with."""

    def __init__(self, request: DownloadState, state: DownloadState) -> None:
        super().__init__()
        self.request = request
        self.state = state


class ModelDownload:
    """One download at a time; `post` takes its messages. All but the work itself is for the thread of the screen.

    Attributes:
        state: None when nothing is downloaded.
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self.state: DownloadState | None = None
        self._post = post
        self._request: DownloadState | None = None
        self._transfer: Transfer | None = None
        self._thread = Background("wizard-download", self._work, lambda error: post(Crashed(error)))

    def begin(self, answer: str) -> None:
        """Look for the model in the Hub cache; where it is not, ask the Hub."""
        try:
            repo_id, revision = parse_repo(answer)
            self.state = DownloadState(answer, "cached", repo_id, revision, choose_endpoint())
        except XTunerError as error:
            self.state = DownloadState(answer, "failed", error=error)
            return
        cached = cached_model(repo_id, revision)
        self.state = replace(self.state, model_dir=cached)
        if cached is None:
            self.ask()

    def ask(self) -> None:
        """Ask the Hub what there is to fetch."""
        assert self.state is not None
        self._do(replace(self.state, stage="asking", error=None, notice="", model_dir=None))

    def fetch(self) -> None:
        """Fetch what is planned, or go on with it."""
        assert self.state is not None and self.state.planned is not None
        self._transfer = self.state.planned.transfer()
        self._do(replace(self.state, stage="fetching", error=None, notice="", progress=None))

    def halt(self) -> None:
        """Let the transfer end soon; what came is kept."""
        if self._transfer is not None:
            self._transfer.stop()

    def forget(self) -> None:
        """End it, whatever it does; nothing more is told."""
        self.halt()
        self._thread.cancel()
        self.state = self._request = None

    def take(self, message: Told) -> bool:
        """Go on as the thread tells; whether this is news."""
        if message.request is not self._request:
            return False
        self.state = message.state
        if self.state.stage == "planned" and self.state.planned is not None and not self.state.planned.num_files:
            self.fetch()  # which only makes the branch lead there
        return True

    def stop(self) -> None:
        """End the thread too."""
        self.forget()
        self._thread.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; whether it has ended."""
        return self._thread.join(timeout_s)

    def _do(self, request: DownloadState) -> None:
        self.state = self._request = request
        self._thread.ask(request)

    def _work(self, request: DownloadState, is_stale: IsStale) -> None:
        state = request

        def tell(**changes: object) -> None:
            nonlocal state
            state = replace(state, **changes)  # type: ignore[arg-type]
            if not is_stale():
                self._post(Told(request, state))

        silence_library()
        try:
            if request.stage == "asking":
                assert request.endpoint is not None
                told = plan_into_cache(
                    request.endpoint, request.repo_id, request.revision, lambda notice: tell(notice=notice)
                )
                tell(stage="planned", planned=told)
            else:
                assert request.planned is not None and self._transfer is not None
                request.planned.run(
                    self._transfer, lambda progress: tell(progress=progress), lambda notice: tell(notice=notice)
                )
                tell(stage="done", model_dir=request.planned.model_dir)
        except StoppedAndSaved as error:
            tell(stage="stopped", error=error)
        except XTunerError as error:
            tell(stage="failed", error=error)

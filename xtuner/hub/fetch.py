"""Getting one file: its bytes from this disk or from the Hub, its hash, its place.

huggingface_hub drops the bytes of a file that was cut (since 1.18 its partial file has a name that no later call
finds), and checks sizes only. So large files gather here, with `http_get` of huggingface_hub for the network, and are
handed over to `hf_hub_download`, which finds them in place and does the rest: links, notes, and all small files.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from xtuner.errors import ModelError, XTunerError
from xtuner.hub.content_hash import has_content_of
from xtuner.hub.download_plan import DownloadPlan, RemoteFile
from xtuner.hub.download_target import Target
from xtuner.hub.findings import shown, shown_path
from xtuner.hub.hub_client import HubClient
from xtuner.hub.hub_errors import AGAIN
from xtuner.hub.partial_file import CountBytes, PartialFile, Stopped
from xtuner.hub.retry import Notice, describe_wait, status_of, wait_before_retry
from xtuner.hub.tqdm_bridge import counting_bar, silent_bar

_BLOCK_BYTES = 4 * 2**20
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Fetcher:
    """What all files of one download share. `force` asks for every file anew, whatever is there."""

    client: HubClient
    plan: DownloadPlan
    target: Target
    force: bool
    stop: threading.Event
    on_notice: Notice

    def fetch(self, file: RemoteFile, on_bytes: CountBytes) -> None:
        """Bring `file` to its place; `on_bytes` hears of its bytes, all in all as many as the file has.

        Raises:
            ModelError: what comes is not what the Hub lists.
            Stopped: `stop` was set.
            Exception: what huggingface_hub and the system raise.
        """
        verified = None
        if self._gathers(file):
            verified = self._gather(file, on_bytes)
        self._settle(file, on_bytes, is_gathered=verified is not None)
        final = self.target.final_path(file)
        if verified is None or _identity(final) != verified:
            self._verify(file, final)

    def _gathers(self, file: RemoteFile) -> bool:
        """Whether the bytes gather here; the Hub gives the very largest files only to huggingface_hub's Xet client."""
        from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE

        return file.sha256 is not None and file.size <= MAX_HTTP_DOWNLOAD_SIZE

    def _gather(self, file: RemoteFile, on_bytes: CountBytes) -> tuple[int, int] | None:
        """Fill the partial file, verify it, move it to its place; its identity there."""
        if self.target.has_content(file) and not self.force:
            on_bytes(file.size, is_old=True)
            return None
        with PartialFile(self.target.partial_path(file), file.size, on_bytes, self.stop) as partial:
            if self.force:
                partial.start_over()
            self._fill(partial, file)
            return _identity(self.target.place(file, partial.path))

    def _fill(self, partial: PartialFile, file: RemoteFile) -> None:
        source = None if self.force or partial.is_whole else self.target.copy_source(file)
        if source is not None:
            self._copy(source, partial)
            if partial.sha256 != file.sha256:
                self.on_notice(f"{shown_path(source)} is damaged; downloading {shown(file.path)}")
                partial.start_over()
        for is_last in (False, True):
            self._download(partial, file)
            if partial.sha256 == file.sha256:
                return
            partial.start_over()
            if not is_last:
                self.on_notice(f"{shown(file.path)} has another sha256 than the Hub lists; downloading it again")
        partial.path.unlink(missing_ok=True)
        raise _other_content(file)

    def _copy(self, source: Path, partial: PartialFile) -> None:
        with source.open("rb") as opened:
            opened.seek(partial.size)
            while block := opened.read(_BLOCK_BYTES):
                partial.write(block)

    def _download(self, partial: PartialFile, file: RemoteFile) -> None:
        """The missing bytes; tried again as long as some come."""
        num_failed = 0
        while not partial.is_whole:
            size_before = partial.size
            try:
                self._request(partial, file)
            except (Stopped, XTunerError):
                raise
            except Exception as error:
                has_grown = partial.size > size_before
                if status_of(error) == _RANGE_NOT_SATISFIABLE or (_is_short_body(error) and not has_grown):
                    raise _other_size(file, partial) from None
                num_failed = 1 if has_grown else num_failed + 1
                if not _is_short_body(error):
                    self._wait_or_raise(error, num_failed, file)

    def _request(self, partial: PartialFile, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        # Redirects are followed by its HTTP client, which keeps the token from the storage they lead to.
        url = hf_hub_url(self.plan.repo_id, file.path, revision=self.plan.commit, endpoint=self.client.endpoint.url)
        headers = build_hf_headers(token=self.client.token_argument, library_name="xtuner")
        headers["Accept-Encoding"] = "identity"  # a compressed answer has no ranges
        http_get(
            url,
            cast(BinaryIO, partial),
            resume_size=partial.size,
            headers=headers,
            expected_size=file.size,
            tqdm_class=silent_bar(),
        )

    def _wait_or_raise(self, error: Exception, num_failed: int, file: RemoteFile) -> None:
        wait_s = wait_before_retry(error, num_failed)
        if wait_s is None:
            raise error
        self.on_notice(f"{shown(file.path)}: {describe_wait(error, wait_s)}")
        if self.stop.wait(wait_s):
            raise Stopped

    def _settle(self, file: RemoteFile, on_bytes: CountBytes, *, is_gathered: bool) -> None:
        """Let huggingface_hub link the file or note its origin, and fetch it if it is not there."""
        from huggingface_hub import hf_hub_download

        counted = file.size if self._gathers(file) else 0

        def count(num_bytes: int) -> None:
            nonlocal counted
            counted += num_bytes
            on_bytes(num_bytes)

        num_failed = 0
        while not self.stop.is_set():
            try:
                hf_hub_download(
                    self.plan.repo_id,
                    file.path,
                    revision=self.plan.commit,
                    endpoint=self.client.endpoint.url,
                    token=self.client.token_argument,
                    library_name="xtuner",
                    force_download=self.force and not is_gathered,
                    tqdm_class=silent_bar() if self._gathers(file) else counting_bar(count),
                    **self.target.hub_arguments,
                )
                break
            except Exception as error:
                num_failed += 1
                self._wait_or_raise(error, num_failed, file)
        on_bytes(file.size - counted)

    def _verify(self, file: RemoteFile, final: Path) -> None:
        """Read back what huggingface_hub wrote, as it compares sizes only."""
        if not has_content_of(final, file):
            self.target.discard(file)
            raise _other_content(file)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _other_content(file: RemoteFile) -> ModelError:
    message = f"{shown(file.path)} does not have the hash that the Hub lists: it was changed on the way, or is damaged"
    return ModelError(message, hint=f"it was not kept: {AGAIN}; or try another endpoint")


def _is_short_body(error: Exception) -> bool:
    """What `http_get` raises when an answer ended in good order, and too early."""
    return type(error) is OSError and error.errno is None


def _other_size(file: RemoteFile, partial: PartialFile) -> ModelError:
    size = partial.size
    partial.start_over()  # with another endpoint it must not go on from these bytes
    message = f"{shown(file.path)} came with {size:,} bytes, and the Hub lists {file.size:,}"
    return ModelError(message, hint="try another endpoint: this one serves another file")

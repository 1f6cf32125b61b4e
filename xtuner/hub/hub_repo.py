"""What a repository on the Hub holds, asked once and checked before anything is written."""

import re
import tempfile
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from xtuner.errors import ModelError, UsageError
from xtuner.hub.download_plan import DownloadPlan, RemoteFile, Selection, check_selection, is_index_needed
from xtuner.hub.findings import shown
from xtuner.hub.hub_client import HubClient
from xtuner.hub.hub_errors import explained, no_hub
from xtuner.hub.library_notices import library_notices
from xtuner.hub.retry import Notice, patiently
from xtuner.hub.tqdm_bridge import silent_bar
from xtuner.hub.weights import INDEX, read_index

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

DEFAULT_REVISION = "main"
_TIMEOUT_S = 30
_HEX_40 = re.compile(r"[0-9a-f]{40}")
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_ADDRESS = re.compile(
    r"(https?:/+[^/]+|(www\.)?(huggingface\.co|hf-mirror\.com))/(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(/(tree|blob|resolve)/(?P<revision>[^/?#]+).*)?/?"
)


def parse_repo(text: str, revision: str | None = None) -> tuple[str, str]:
    """Repository and revision of `org/name` or of the address of its page; the revision is `main` if none is named.

    Raises:
        UsageError: it is neither.
    """
    address = _ADDRESS.fullmatch(text.strip())
    repo_id = address["repo"] if address else text.strip()
    is_name = _REPO_ID.fullmatch(repo_id) and "--" not in repo_id and ".." not in repo_id and len(repo_id) <= 96
    if not is_name or repo_id.startswith(("datasets/", "spaces/")):
        hint = "name it as the Hub does: Qwen/Qwen3-8B, or the address of its page"
        raise UsageError(f"{shown(text)!r} is not the name of a model on the Hub", hint=hint)
    revision = revision or (address["revision"] if address else None) or DEFAULT_REVISION
    if not re.fullmatch(r"[\w][\w./-]*", revision) or ".." in revision.split("/"):
        raise UsageError(f"--revision {shown(revision)!r} is no branch, tag or commit", hint="such as main")
    return repo_id, revision


def make_plan(client: HubClient, repo_id: str, revision: str, selection: Selection, on_notice: Notice) -> DownloadPlan:
    """Ask the Hub what `revision` of `repo_id` is and holds, and choose.

    Raises:
        XTunerError: as `explained`; as `check_selection`; ModelError for a file name that leads out of the folder.
    """
    with explained(client, repo_id, revision), library_notices(client, on_notice):
        commit, files = patiently(lambda: _list_files(client, repo_id, revision), on_notice)
        indexed = None
        if is_index_needed(files, selection):
            indexed = patiently(lambda: _indexed_files(client, repo_id, commit), on_notice)
    wanted, left_out = selection.split(files, indexed)
    plan = DownloadPlan(repo_id, revision, commit, wanted, left_out)
    check_selection(plan, selection)
    return plan


def _list_files(client: HubClient, repo_id: str, revision: str) -> tuple[str, list[RemoteFile]]:
    from huggingface_hub.hf_api import RepoFile

    api, commit = client.api(), revision
    try:
        if not _HEX_40.fullmatch(revision):
            commit = api.model_info(repo_id, revision=revision, timeout=_TIMEOUT_S).sha or ""
        if not _HEX_40.fullmatch(commit):
            raise no_hub(client)
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=commit))
    except (KeyError, TypeError, ValueError):  # not JSON, or not what a Hub says
        raise no_hub(client) from None
    return commit, [_remote_file(repo_id, entry) for entry in entries if isinstance(entry, RepoFile)]


def _remote_file(repo_id: str, entry: "RepoFile") -> RemoteFile:
    path, size, sha256 = entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None
    if _leads_out(path):
        message = f"{repo_id} lists a file named {shown(path)!r}, which does not stay in its folder"
        raise ModelError(message, hint="do not use this repository; nothing was written")
    is_sound = isinstance(size, int) and size >= 0 and _HEX_40.fullmatch(entry.blob_id)
    if not is_sound or (sha256 is not None and not _HEX_64.fullmatch(sha256)):
        message = f"{repo_id} lists {shown(path)} with size {shown(size)} and hash {shown(sha256 or entry.blob_id)}"
        raise ModelError(message, hint="check the endpoint, or try another one")
    return RemoteFile(path, size, entry.blob_id, sha256)


def _leads_out(path: str) -> bool:
    """Whether `path` does not stay below its folder, on this system or on another that the files may be taken to."""
    windows = PureWindowsPath(path)
    is_anchored = path.startswith("/") or bool(windows.drive or windows.root)
    return is_anchored or any(part in ("", ".", "..") for part in re.split(r"[/\\]", path))


def _indexed_files(client: HubClient, repo_id: str, commit: str) -> set[str]:
    """The weight files that the index names. It is fetched into a temporary place: a dry run writes nothing."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory(prefix="xtuner-index-") as folder:
        hf_hub_download(
            repo_id,
            INDEX,
            revision=commit,
            local_dir=folder,
            token=client.token_argument,
            endpoint=client.endpoint.url,
            library_name="xtuner",
            tqdm_class=silent_bar(),
        )
        return set(read_index(Path(folder)).values())

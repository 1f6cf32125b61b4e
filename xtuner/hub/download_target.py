"""Where a model goes: the Hub cache, or a directory of the user's. Both as huggingface_hub lays them out.

- Cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
- Directory: https://huggingface.co/docs/huggingface_hub/guides/download#download-files-to-a-local-folder
"""

import os
from pathlib import Path
from typing import Any, Protocol

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.hub.cache_layout import recognise_cache
from xtuner.hub.content_hash import has_content_of
from xtuner.hub.download_plan import DownloadPlan, RemoteFile
from xtuner.hub.findings import HubError, shown_names, shown_path


class Target(Protocol):
    """A place for the files of one plan."""

    @property
    def model_dir(self) -> Path:
        """The directory to train from."""

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """What tells `hf_hub_download` of this place."""

    def final_path(self, file: RemoteFile) -> Path:
        """Where the file can be read when it is there."""

    def is_there(self, file: RemoteFile) -> bool:
        """Whether the file was downloaded before."""

    def partial_path(self, file: RemoteFile) -> Path:
        """Where the bytes of a large file gather."""

    def has_content(self, file: RemoteFile) -> bool:
        """Whether the bytes of a large file are in their place already."""

    def place(self, file: RemoteFile, partial: Path) -> Path:
        """Move the gathered bytes of a large file to where `hf_hub_download` finds them; returns that path."""

    def copy_source(self, file: RemoteFile) -> Path | None:
        """A file on this disk that should be the same, so that it need not be downloaded."""

    def discard(self, file: RemoteFile) -> None:
        """Remove a file that is not what the Hub says."""

    def finish(self, plan: DownloadPlan) -> None:
        """Called when all files are there."""


def repo_dir(cache_dir: Path, repo_id: str) -> Path:
    """The folder of a repository in a Hub cache."""
    return cache_dir / f"models--{repo_id.replace('/', '--')}"


def newest_snapshot(cache_dir: Path, repo_id: str) -> Path | None:
    """The complete snapshot of `repo_id` that the cache's `refs/main` names, or the only one."""
    cache = recognise_cache(repo_dir(cache_dir, repo_id))
    chosen = cache.chosen if cache else None
    return chosen.path if chosen and chosen.is_complete else None


class CacheTarget:
    """A snapshot in the Hub cache, whose files are links to blobs named by their hash."""

    def __init__(self, cache_dir: Path, plan: DownloadPlan) -> None:
        self.cache_dir = cache_dir
        self.repo_dir = repo_dir(cache_dir, plan.repo_id)
        self.model_dir = self.repo_dir / "snapshots" / plan.commit

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """As `Target`."""
        return {"cache_dir": self.cache_dir}

    def final_path(self, file: RemoteFile) -> Path:
        """As `Target`."""
        return self.model_dir / file.path

    def is_there(self, file: RemoteFile) -> bool:
        """As `Target`: blobs are named by their hash and moved there when whole, so the size is enough."""
        return _size_of(self.final_path(file)) == file.size

    def partial_path(self, file: RemoteFile) -> Path:
        """As `Target`; the name is the one that huggingface_hub used before it dropped what was cut."""
        return self.blob_path(file).with_name(f"{file.etag}.incomplete")

    def blob_path(self, file: RemoteFile) -> Path:
        """Where the content of the file is, whatever revision it came with."""
        return self.repo_dir / "blobs" / file.etag

    def has_content(self, file: RemoteFile) -> bool:
        """As `Target`."""
        return _size_of(self.blob_path(file)) == file.size

    def place(self, file: RemoteFile, partial: Path) -> Path:
        """As `Target`."""
        blob = self.blob_path(file)
        os.replace(partial, blob)
        return blob

    def copy_source(self, file: RemoteFile) -> Path | None:
        """As `Target`: the cache is what others copy from."""
        return None

    def discard(self, file: RemoteFile) -> None:
        """As `Target`: the link and the blob behind it, which may not be named as it should."""
        link = self.final_path(file)
        for path in (link.resolve(), link):
            if path.is_relative_to(self.repo_dir.resolve()) or path == link:
                path.unlink(missing_ok=True)

    def finish(self, plan: DownloadPlan) -> None:
        """Point the branch or tag to the snapshot, only now: until then it leads to the old one, which is whole."""
        if plan.revision == plan.commit:
            return
        ref = self.repo_dir / "refs" / plan.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(plan.commit, encoding="ascii")
        os.replace(new, ref)


class LocalTarget:
    """A directory of plain files, with notes on their origin in `.cache/huggingface/download`.

    `cached` is where the Hub cache would have the same files.
    """

    def __init__(self, directory: Path, cached: CacheTarget) -> None:
        self.model_dir = directory
        self._cached = cached
        self._notes = directory / ".cache" / "huggingface" / "download"
        self._matches: dict[str, bool] = {}

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """As `Target`."""
        return {"local_dir": self.model_dir}

    def final_path(self, file: RemoteFile) -> Path:
        """As `Target`.

        Raises:
            EnvironmentFault: a link in the directory leads out of it.
        """
        path = self.model_dir / file.path
        if not path.parent.resolve().is_relative_to(self.model_dir.resolve()):
            message = f"{shown_path(path.parent)} leads out of {shown_path(self.model_dir)}"
            raise EnvironmentFault(message, hint="remove that link, or choose another --local-dir")
        return path

    def is_there(self, file: RemoteFile) -> bool:
        """As `Target`: by the note of the download that brought it, else by its hash."""
        if _size_of(self.final_path(file)) != file.size:
            return False
        return file.etag in self._read_note(file) or (file.sha256 is not None and self._has_content(file))

    def foreign_files(self, plan: DownloadPlan) -> list[str]:
        """Files in the way that no download brought and that are not those of the plan."""
        found = [file for file in plan.files if os.path.lexists(self.final_path(file)) and not self._read_note(file)]
        return [file.path for file in found if not self._has_content(file)]

    def partial_path(self, file: RemoteFile) -> Path:
        """As `Target`; another commit's bytes of the same file have another name."""
        return self._notes / f"{file.path}.{file.etag[:12]}.incomplete"

    def has_content(self, file: RemoteFile) -> bool:
        """As `Target`."""
        return self.is_there(file)

    def place(self, file: RemoteFile, partial: Path) -> Path:
        """As `Target`; a note on what was there before would be wrong now."""
        final = self.final_path(file)
        final.parent.mkdir(parents=True, exist_ok=True)
        self._note_path(file).unlink(missing_ok=True)
        os.replace(partial, final)
        return final

    def copy_source(self, file: RemoteFile) -> Path | None:
        """As `Target`: the blob in the Hub cache."""
        return self._cached.blob_path(file) if self._cached.has_content(file) else None

    def discard(self, file: RemoteFile) -> None:
        """As `Target`."""
        self.final_path(file).unlink(missing_ok=True)
        self._note_path(file).unlink(missing_ok=True)

    def finish(self, plan: DownloadPlan) -> None:
        """Remove what older, unfinished downloads of the same files left."""
        for file in plan.files:
            folder = self.partial_path(file).parent
            prefix = f"{os.path.basename(file.path)}."
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name.startswith(prefix) and path.name.endswith(".incomplete"):
                    path.unlink(missing_ok=True)

    def _note_path(self, file: RemoteFile) -> Path:
        return self._notes / f"{file.path}.metadata"

    def _read_note(self, file: RemoteFile) -> tuple[str, ...]:
        """Commit and etag of the download that brought the file; nothing if it was changed since then."""
        try:
            commit, etag, time_s = self._note_path(file).read_text(encoding="utf-8").split()
            is_newer = self.final_path(file).stat().st_mtime - 1 > float(time_s)
        except (OSError, ValueError):
            return ()
        return () if is_newer else (commit, etag)

    def _has_content(self, file: RemoteFile) -> bool:
        if file.path not in self._matches:
            try:
                self._matches[file.path] = has_content_of(self.final_path(file), file)
            except HubError:  # a directory, a pipe, no right to read: not the file
                self._matches[file.path] = False
        return self._matches[file.path]


def check_in_the_way(target: LocalTarget, plan: DownloadPlan) -> None:
    """Refuse to write over what a download did not bring.

    Raises:
        UsageError: the directory holds other files under names of the plan.
    """
    foreign = target.foreign_files(plan)
    if foreign:
        message = f"{shown_path(target.model_dir)} holds other files than {plan.repo_id} has: {shown_names(foreign)}"
        raise UsageError(message, hint="choose another --local-dir, or --force to write over them")


def _size_of(path: Path) -> int | None:
    """The size of a regular file; None for anything else."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None

"""A model on its way into the Hub cache: what there is already, what the Hub says, and the bytes."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import EnvironmentFault
from xtuner.hub.cache_layout import hub_cache
from xtuner.hub.download_plan import DownloadPlan, Selection
from xtuner.hub.download_target import CacheTarget, newest_snapshot
from xtuner.hub.free_disk import check_disk, disk_of
from xtuner.hub.hub_client import Endpoint, HubClient, connect
from xtuner.hub.hub_errors import explained
from xtuner.hub.hub_repo import DEFAULT_REVISION, make_plan
from xtuner.hub.retry import Notice
from xtuner.hub.transfer import Transfer, TransferProgress


@dataclass(frozen=True)
class CacheDownload:
    """What is fetched from where into the Hub cache.

    Attributes:
        num_files: that are not there yet.
        total_bytes: of these files.
        missing_bytes: of them, what no earlier download has left here.
        free_bytes: of the disk that the cache is on.
    """

    client: HubClient
    plan: DownloadPlan
    target: CacheTarget
    num_files: int
    total_bytes: int
    missing_bytes: int
    free_bytes: int

    @property
    def model_dir(self) -> Path:
        """The directory to train from, once all files are there."""
        return self.target.model_dir

    def transfer(self) -> Transfer:
        """The files that are missing now; one transfer runs once."""
        return Transfer(self.client, self.plan, self.target)

    def run(self, transfer: Transfer, on_progress: Callable[[TransferProgress], None], on_notice: Notice) -> None:
        """Fetch what is missing; the functions are called from this thread.

        Raises:
            StoppedAndSaved: Ctrl-C, or `transfer.stop`; what came is kept, and the next transfer goes on from there.
            XTunerError: it does not fit on the disk, or as `Transfer.run`.
        """
        with explained(self.client, self.plan.repo_id, self.plan.revision):
            check_disk(self.model_dir, transfer.missing_bytes())
            transfer.run(on_progress, on_notice)


def plan_into_cache(endpoint: Endpoint, repo_id: str, revision: str, on_notice: Notice) -> CacheDownload:
    """Ask the Hub at `endpoint` what training needs of a model, with the token of the environment; fetches nothing.

    Raises:
        XTunerError: as `connect` and `make_plan`.
    """
    with offering_what_is_cached(repo_id):
        client = connect(endpoint)
        plan = make_plan(client, repo_id, revision, Selection(), on_notice)
    with explained(client, repo_id, revision):
        target = CacheTarget(hub_cache(), plan)
        transfer = Transfer(client, plan, target)
        free_bytes = shutil.disk_usage(disk_of(target.model_dir)).free
        sizes = transfer.num_files, transfer.total_bytes, transfer.missing_bytes(), free_bytes
        return CacheDownload(client, plan, target, *sizes)


def cached_model(repo_id: str, revision: str) -> Path | None:
    """The complete snapshot in the Hub cache that serves without asking the Hub, if there is one."""
    return newest_snapshot(hub_cache(), repo_id) if revision == DEFAULT_REVISION else None


@contextmanager
def offering_what_is_cached(repo_id: str) -> Iterator[None]:
    """Without network or access, an older download in the Hub cache may do.

    Raises:
        EnvironmentFault: that of the block, with the older download in its hint.
    """
    try:
        yield
    except EnvironmentFault as error:
        snapshot = newest_snapshot(hub_cache(), repo_id)
        if snapshot is None:
            raise
        offer = f"or use what the Hub cache has: xtuner sft --load-from {shlex.quote(str(snapshot))}"
        raise EnvironmentFault(error.message, hint=f"{error.hint}\n{offer}") from None

"""Everything in this folder breaks something on purpose and carries the marker `faults`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_ranks import ForkServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts runs whose ranks are forked."""
    server = ForkServer(tmp_path_factory.mktemp("outputs"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def options(tiny_model: Callable[..., Path], chats: Path) -> Callable[..., list[object]]:
    """`options(work_dir, *more)` are those of a run of six steps, saved after every second one."""

    def of(work_dir: Path, *more: object) -> list[object]:
        return [
            *("--load-from", tiny_model("qwen3"), "--dataset", chats, "--work-dir", work_dir),
            *("--total-step", 6, "--pack-max-length", 256, "--checkpoint-interval", 2, *more),
        ]

    return of

"""Everything in this folder needs a CUDA device, carries the marker `gpu` and is skipped without one."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in Path(item.path).parents]
    if not here:
        return
    import torch

    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))

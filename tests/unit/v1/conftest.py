"""One rank in this process."""

import pytest


@pytest.fixture(scope="session")
def mesh():
    from xtuner.v1.engine.distributed import Ranks, join_process_group, leave_process_group

    yield join_process_group(Ranks(0, 0, 1))
    leave_process_group()

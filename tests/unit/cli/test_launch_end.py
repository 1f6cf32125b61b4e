"""When a launch that was watched is over."""

import time
from dataclasses import replace

import pytest

from xtuner.cli.attach import has_ended
from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status
from xtuner.run.supervision import supervise_here


@pytest.mark.parametrize(
    ("state", "ends", "ends_with_restarts"),
    [("running", False, False), ("finished", True, True), ("stopped", True, True), ("failed", True, False)],
)
def test_the_ranks_tell_it_first(tmp_path, state, ends, ends_with_restarts):
    for max_restarts, is_end in ((0, ends), (1, ends_with_restarts)):
        run_dir = RunDir.create(tmp_path)
        file = supervise_here(run_dir, is_detached=True, max_restarts=max_restarts)
        assert not has_ended(run_dir), "the ranks have not begun"
        status = replace(start_status(10), state=state)
        write_status(run_dir, replace(status, heartbeat_at=time.time() - 3600))
        assert not has_ended(run_dir), "that is how the launch before ended"
        write_status(run_dir, status)
        assert has_ended(run_dir) == is_end
        file.update(exit_code=6)
        assert has_ended(run_dir)


def test_a_run_without_a_supervisor_is_not_waited_for(tmp_path):
    assert has_ended(RunDir.create(tmp_path))

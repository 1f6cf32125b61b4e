"""Where a screen is drawn, and where there are lines of text."""

import fcntl
import os
import pty
import subprocess
import sys
import termios

from xtuner.cli.terminal import has_screen

_ENDS = ("stdin", "stdout", "stderr")


def test_all_ends_are_needed(monkeypatch, tmp_path):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(ours), os.fdopen(theirs) as terminal, (tmp_path / "file").open("w") as file:

        def has_screen_with(**others):
            with monkeypatch.context() as context:
                for name in _ENDS:
                    context.setattr(sys, name, others.get(name, terminal))
                return has_screen()

        assert has_screen_with()
        for name in _ENDS:
            assert not has_screen_with(**{name: file})
            assert not has_screen_with(**{name: None})  # closed by the shell: <&-
        monkeypatch.setenv("TERM", "dumb")
        assert not has_screen_with()


def test_a_job_in_the_background_has_none():
    """It would be stopped by SIGTTOU; the exit code says what the job in front and its child behind found."""
    program = (
        "import os\nfrom xtuner.cli.terminal import has_screen\nin_front = has_screen()\nchild = os.fork()\n"
        "if child == 0:\n    os.setpgid(0, 0)\n    os._exit(has_screen())\n"
        "behind = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\nraise SystemExit(10 * in_front + behind)"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 10

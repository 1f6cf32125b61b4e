"""Which process wrote a file: its number alone says little, as numbers are given again."""

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19  # of what follows the name in /proc/PID/stat: the field `starttime` of proc(5)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, and no other that may come to have its number.

    Attributes:
        host: where it runs, as `socket.gethostname` says.
        pid: its number there.
        born: which boot of the machine it belongs to, and when in it the process began; compared, never read.
    """

    host: str
    pid: int
    born: str

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs on this machine; a zombie, which waits to be asked how it ended, does not."""
        return self.is_here and _birth(self.pid) == self.born

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; whether it was there to get it.

        Raises:
            PermissionError: it belongs to another user.
        """
        if not self.is_here:
            return False
        try:
            if hasattr(os, "pidfd_open"):
                return self._send_through_descriptor(number)
            if not self.is_alive:
                return False
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _send_through_descriptor(self, number: signal.Signals) -> bool:
        """Look first whom the descriptor means: from then on no other process can take its place (Linux)."""
        descriptor = os.pidfd_open(self.pid)
        try:
            if not self.is_alive:
                return False
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
        return True


def this_process() -> ProcessIdentity:
    """The process that asks."""
    return ProcessIdentity(socket.gethostname(), os.getpid(), _birth(os.getpid()))


def _birth(pid: int) -> str:
    """When the process of that number began; empty where there is none that runs."""
    if pid <= 0:  # means process groups to kill(2)
        return ""
    if not _BOOT_ID.exists():
        return _birth_by_ps(pid)
    try:
        # The name stands in brackets and may hold any character, brackets and blanks too.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    if fields[0] in (b"Z", b"X"):
        return ""
    return f"{_BOOT_ID.read_text().strip()}:{int(fields[_START_TIME])}"


def _birth_by_ps(pid: int) -> str:
    """The same where there is no /proc, to the second."""
    done = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    state, _, began = done.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()

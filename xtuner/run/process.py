"""Which process wrote a file: its number alone says little, as numbers are given again."""

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PARENT, _START_TIME = 1, 19  # of what follows the name in /proc/PID/stat: `ppid` and `starttime` of proc(5)


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


def is_running(pid: int) -> bool:
    """Whether a process of that number runs on this machine; a zombie does not."""
    return bool(_birth(pid))


def parent_of(pid: int) -> int | None:
    """The number of the parent of a process on this machine; None where there is no such process."""
    if _BOOT_ID.exists():
        fields = _stat(pid)
        return int(fields[_PARENT]) if fields else None
    said = _ask_ps("ppid=", pid)
    return int(said) if said.isdigit() else None


def state_of(pid: int) -> str:
    """The state of a process on this machine, as the letter that proc(5) and ps(1) give; empty without a process."""
    if _BOOT_ID.exists():
        fields = _stat(pid)
        return fields[0].decode("ascii", "replace") if fields else ""
    return _ask_ps("state=", pid)[:1]


def _birth(pid: int) -> str:
    """When the process of that number began; empty where there is none that runs."""
    if pid <= 0:  # means process groups to kill(2)
        return ""
    if not _BOOT_ID.exists():
        state, _, began = _ask_ps("stat=,lstart=", pid).partition(" ")
        return "" if state.startswith("Z") else began.strip()
    fields = _stat(pid)
    if not fields or fields[0] in (b"Z", b"X"):
        return ""
    return f"{_BOOT_ID.read_text().strip()}:{int(fields[_START_TIME])}"


def _stat(pid: int) -> list[bytes]:
    """What follows the name in /proc/PID/stat: it stands in brackets, and may hold any character itself."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _ask_ps(columns: str, pid: int) -> str:
    """The same where there is no /proc; times to the second."""
    environment = {**os.environ, "LC_ALL": "C"}
    command = ["ps", "-o", columns, "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()

"""Two machines in one: network, hostname and `/etc/hosts` of their own, joined by a cable; needs root on Linux."""

import subprocess
from pathlib import Path
from types import TracebackType

_NAMESPACES = ("unshare", "--net", "--uts", "--mount", "--propagation", "private")


class TwoHosts:
    """Hosts `xt-a` (10.77.0.1) and `xt-b` (10.77.0.2); they are gone with the last process in them."""

    names = ("xt-a", "xt-b")

    def __init__(self, directory: Path) -> None:
        self._hosts_file = directory / "hosts"
        self._hosts_file.write_text("127.0.0.1 localhost\n10.77.0.1 xt-a\n10.77.0.2 xt-b\n")
        # Each waits for its stdin to close: nothing else keeps a namespace alive.
        self._holders = [
            subprocess.Popen([*_NAMESPACES, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in self.names
        ]

    def __enter__(self) -> "TwoHosts":
        second = self._holders[1]
        for holder in self._holders:  # it answers when its namespaces are there
            assert holder.stdin and holder.stdout
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            holder.stdout.readline()
        self._set_up("ip", "link", "add", "xt0", "type", "veth", "peer", "name", "xt0", "netns", str(second.pid))
        for number, name in enumerate(self.names):
            for command in (
                ("hostname", name),
                ("mount", "--bind", str(self._hosts_file), "/etc/hosts"),
                ("ip", "link", "set", "lo", "up"),
                ("ip", "address", "add", f"10.77.0.{number + 1}/24", "dev", "xt0"),
                ("ip", "link", "set", "xt0", "up"),
            ):
                self._set_up(*command, host=number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for holder in self._holders:
            holder.kill()
            holder.communicate()

    def on(self, host: int, *command: object) -> list[str]:
        """The command that runs `command` on a host, 0 or 1."""
        return ["nsenter", "-t", str(self._holders[host].pid), "--net", "--uts", "--mount", *map(str, command)]

    def _set_up(self, *command: str, host: int = 0) -> None:
        subprocess.run(self.on(host, *command), check=True, capture_output=True)


def why_not(directory: Path) -> str:
    """Why this machine cannot be two; empty if it can."""
    try:
        with TwoHosts(directory) as hosts:
            done = subprocess.run(hosts.on(1, "ping", "-c", "1", "-W", "5", "xt-a"), capture_output=True, check=False)
            return "" if done.returncode in (0, 127) else "the two do not reach each other"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"namespaces are not permitted here: {error}"

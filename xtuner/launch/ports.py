"""Whether the machines can meet where they are told to."""

import errno
import socket

from xtuner.errors import EnvironmentFault, UsageError


def check_endpoint(endpoint: str, *, is_host_here: bool) -> None:
    """Check `host:port`, and on the machine that hosts it that the port is free.

    Raises:
        UsageError: not of the form `host:port`.
        EnvironmentFault: the port is in use on this machine.
    """
    host, separator, port = endpoint.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--rdzv-endpoint {endpoint!r} is not HOST:PORT", hint="for example --rdzv-endpoint node0:29500"
        )
    if not is_host_here:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise EnvironmentFault(
                    f"port {port} cannot be opened: {error.strerror}", hint="use another port"
                ) from None
            raise EnvironmentFault(
                f"port {port} of --rdzv-endpoint {endpoint} is in use on this machine",
                hint=f"another run may be using it; choose another port, for example {host}:{int(port) + 1}",
            ) from None

"""A port for ranks to meet at."""

import random
import socket

# Below those that Linux gives to whoever asks for any (`ip_local_port_range`): between our look and that of the ranks,
# seconds later, the many sockets of other tests would take one of these now and then.
_PORTS = range(10_000, 30_000)


def free_port() -> int:
    """One that nobody listens at."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

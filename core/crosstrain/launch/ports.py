"""Ports of this machine."""

import socket

from crosstrain.errors import ConfigError


def free_port() -> int:
    """One that nothing listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def require_free(port: int) -> None:
    """Refuses a port that another program listens on.

    Raises:
        ConfigError: names the port.
    """
    with socket.socket() as probe:
        # As servers do: a port whose last user has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"port must be free on the first host, got port={port} ({error.strerror}). Use another --port, the "
                "same on every host."
            ) from error

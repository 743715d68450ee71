"""Opens the port and says where it is, before anything of HTTP is imported."""

import socket

from data_schemas.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; from here on connections wait in it instead of failing.

    Raises
    ------
    UsageError
        If the address isn't this machine's or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(f"can't listen on {host}: {error.strerror}", where="--host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}",
            where="--port",
            mend="give another port, or --port 0 for any free one",
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the URL under which this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open_to_others(listening: socket.socket) -> bool:
    """Tell whether the socket takes connections from other machines."""
    host = str(listening.getsockname()[0])
    return not (host.startswith("127.") or host == "::1")

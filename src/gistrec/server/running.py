"""A server on a socket, from its start to its end."""

import contextlib
import ipaddress
import signal
import socket
import sys

import uvicorn

from gistrec.errors import ConfigError
from gistrec.recommender import Recommender
from gistrec.server.app import create_app
from gistrec.server.settings import DEFAULTS, Settings


def serve(
    recommender: Recommender,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_to_all: bool = False,
    settings: Settings = DEFAULTS,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the open requests and return.

    Prints one line with the URL when ready. To be called in the main thread.

    Args:
        recommender: What is served; the caller closes it.
        host: Address to listen on; beyond the loopback interface only with keys.
        port: 0 takes a free one.
        open_to_all: Listen anywhere without keys, too.
        settings: How to serve.

    Raises:
        ConfigError: the address can't be listened on, or others could reach a server without keys.
    """
    listener = _listen(host, port, beyond_loopback=settings.keys is not None or open_to_all)
    config = uvicorn.Config(
        create_app(recommender, settings),
        log_level="warning",
        access_log=False,  # its lines would hold user ids
        timeout_graceful_shutdown=10,
    )
    # uvicorn raises the signal again once it has shut down; this way SIGTERM, too, ends in a return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with listener, contextlib.suppress(KeyboardInterrupt):
            _Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)


def _listen(host: str, port: int, *, beyond_loopback: bool) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not (beyond_loopback or ipaddress.ip_address(address[0]).is_loopback):
            raise ConfigError(
                f"on {host} others could reach a server that asks for no keys: give --keys FILE "
                "(gistrec keys add makes it), --host 127.0.0.1, or --open if anybody may read, "
                "write and erase"
            )
        return socket.create_server((str(address[0]), port), family=family)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"can't listen on {host}, port {port}: {why}; give another --host or --port (0: any)"
        ) from error


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            sys.stdout.write(f"gistrec serves at {url} (stop with Ctrl-C)\n")
            sys.stdout.flush()

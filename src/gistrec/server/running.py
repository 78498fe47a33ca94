"""A server on a socket, from its start to its end."""

import ipaddress
import math
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from gistrec.errors import ConfigError
from gistrec.recommender import Recommender
from gistrec.server import logs, workers
from gistrec.server.app import app_of
from gistrec.server.operations import Service
from gistrec.server.settings import DEFAULTS, Settings


@dataclass(frozen=True)
class Certificate:
    """What TLS needs, both as PEM.

    Raises:
        ConfigError: the files can't be read, or do not belong together.
    """

    chain: Path
    """The server's certificate, and those between it and the root."""
    key: Path
    """Its private key, without a password."""

    def __post_init__(self) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.chain,
                self.key,
                password=lambda: b"",  # or OpenSSL would ask on the terminal
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.chain} and {self.key} are no certificate and its key without a password, "
                f"both as PEM: {error}"
            ) from None


def serve(
    load: Callable[[], Recommender],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_to_all: bool = False,
    certificate: Certificate | None = None,
    processes: int = 1,
    settings: Settings = DEFAULTS,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the open requests and return.

    Prints one line with the URL when ready. To be called in the main thread.

    Args:
        load: Opens what is served, while /healthz answers already; it is closed at the end.
        host: Address to listen on; beyond the loopback interface only with keys.
        port: 0 takes a free one.
        open_to_all: Listen anywhere without keys, too.
        certificate: Speak TLS with it.
        processes: Worker processes that share the socket; each calls `load`, which must then
            pickle, and open a store that processes can share.
        settings: How to serve.

    Raises:
        ConfigError: the address can't be listened on, or others could reach a server without keys.
    """
    listener = _listen(host, port, beyond_loopback=settings.keys is not None or open_to_all)
    scheme = "https" if certificate else "http"
    address, bound = listener.getsockname()[:2]
    url = f"{scheme}://[{address}]:{bound}" if ":" in address else f"{scheme}://{address}:{bound}"

    def ready() -> None:
        sys.stdout.write(f"gistrec serves at {url} (stop with Ctrl-C)\n")
        sys.stdout.flush()

    with listener:
        if processes == 1:
            run(load, listener, certificate, settings, ready)
        else:
            logs.set_up(settings.log_format)
            workers.supervise(
                run,
                (load, listener, certificate, settings),
                processes,
                ready=ready,
                ending=listener.close,  # theirs stay open
                patience_s=settings.linger_s + 2 * settings.timeout_s + 10,
            )


def run(
    load: Callable[[], Recommender],
    listener: socket.socket,
    certificate: Certificate | None,
    settings: Settings,
    ready: Callable[[], None],
    begun: Callable[[Callable[[], None]], None] = lambda stop: None,
) -> None:
    """Serve on a socket in this process.

    Args:
        load: Opens what is served.
        listener: The socket.
        certificate: Speak TLS with it.
        settings: How to serve.
        ready: Called when the model is loaded.
        begun: Called at once with what stops the server as SIGTERM does.
    """
    logs.set_up(settings.log_format)
    service = Service(settings)
    config = uvicorn.Config(
        app_of(service),
        log_config=None,
        access_log=False,  # its lines would hold user ids
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.timeout_s) + 1,
        ssl_certfile=certificate.chain if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
    server = _Server(config, service, load, ready)
    begun(server.stop)
    try:
        server.run(sockets=[listener])
    finally:
        service.gate.close()
        server.close()


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
    """Loads while it listens; at a signal it says so to /readyz, then ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        load: Callable[[], Recommender],
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._load = load
        self._ready = ready
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="gistrec-load")
        self._loading: Future[Recommender] | None = None
        self._is_ready = False
        self._ends_at = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loading = self._loader.submit(self._load)

    async def on_tick(self, counter: int) -> bool:
        if self._loading and self._loading.done() and not self._is_ready:
            if self._loading.exception():
                self.should_exit = True  # `close` raises it
            else:
                self._service.begin(self._loading.result())
                self._is_ready = True
                self._ready()
        if time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not passed on when all is done: a server that was told to end returns."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif self._service.ending and sig == signal.SIGINT:
            self._ends_at = 0.0
        self.stop()

    def stop(self) -> None:
        """Be unready at once, and end when the time to linger is over."""
        self._service.ending = True
        linger_s = self._service.settings.linger_s if self._is_ready else 0.0
        self._ends_at = min(self._ends_at, time.monotonic() + linger_s)

    def close(self) -> None:
        """Close what was loaded, or raise why it was not."""
        self._loader.shutdown()
        if self._loading is not None:
            self._loading.result().close()

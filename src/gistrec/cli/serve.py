"""`gistrec serve`: a model over HTTP."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gistrec.cli._output import Work
from gistrec.cli._service import planned
from gistrec.errors import ConfigError
from gistrec.rebuilds import DEFAULT_LIMITS, RebuildLimits

if TYPE_CHECKING:
    from gistrec.server import Certificate, Settings
    from gistrec.server.budget import ResultFiles

_SWEEP_EVERY_S = 300.0


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a server listens, and to whom."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    keys: Path | None = None
    """File of the keys that callers need, made by `gistrec keys`."""
    open_to_all: Annotated[bool, Parameter(name="--open")] = False
    """Listen on any address without keys, too."""
    tls_cert: Path | None = None
    """Speak TLS with this certificate (PEM, with those between it and the root)."""
    tls_key: Path | None = None
    """Its private key (PEM, without a password)."""

    def certificate(self) -> "Certificate | None":
        """What TLS needs, if it is to be spoken."""
        from gistrec.server import Certificate

        if self.tls_cert is None or self.tls_key is None:
            if self.tls_cert is self.tls_key:
                return None
            raise ConfigError("TLS needs both --tls-cert and --tls-key: give the other one, too")
        return Certificate(self.tls_cert, self.tls_key)


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes on."""

    workers: int = 1
    """Processes that share the port, the store and the memory of the model's weights."""
    in_flight: int | None = None
    """Calls of the recommender at the same time in each process; the number of cores, if not
    given. More gain nothing where the model is the bottleneck; where the store is far away, they
    do."""
    waiting: int = 128
    """Requests that may wait for these in each process; further ones are refused (429)."""
    timeout_s: float = 30.0
    """Longest time that a request may take (503 if it was not begun, 504 if it may be done)."""
    max_body_bytes: int = 1 << 20
    """Longest body of a request (413)."""
    linger_s: float = 0.0
    """How long new requests are still answered after SIGTERM, while /readyz says no already."""
    log_format: Literal["text", "json"] | None = None
    """Log every request to stderr, without user ids, keys or queries."""

    def settings(self, keys: Path | None, results: "ResultFiles") -> "Settings":
        """For the server."""
        from gistrec.server import Settings
        from gistrec.server.keys import KeyRing

        if self.workers < 1:
            raise ConfigError(f"--workers is {self.workers}, allowed is 1 or more: give that")
        given = dataclasses.asdict(self)
        del given["workers"]
        if self.in_flight is None:
            del given["in_flight"]
        return Settings(**given, keys=KeyRing(keys) if keys else None, results=results)


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebuilding:
    """How many states a server rebuilds at once, for a model that is new to the store."""

    rebuilds: int | None = None
    """Long rebuilds of states at the same time in each process; one less than there are cores, at
    least one, if not given."""
    rebuilds_waiting: int = DEFAULT_LIMITS.waiting
    """Long rebuilds that may wait for these in each process, the oldest model's first; further
    ones are refused (503). Each keeps a thread."""
    rebuilds_wait_s: float = DEFAULT_LIMITS.wait_s
    """How long each waits at most (503)."""
    rebuilds_long: int = DEFAULT_LIMITS.long_events
    """From how many events on a rebuild counts as long; shorter ones never wait."""

    def limits(self) -> RebuildLimits:
        """For the recommender."""
        return RebuildLimits(
            at_once=DEFAULT_LIMITS.at_once if self.rebuilds is None else self.rebuilds,
            waiting=self.rebuilds_waiting,
            wait_s=self.rebuilds_wait_s,
            long_events=self.rebuilds_long,
        )


def _ranker(text: str) -> tuple[Path, int]:
    folder, _, count = text.rpartition("=")
    if not folder or not count.isdigit():
        raise ConfigError(f"--then takes FOLDER=COUNT, such as tarq=1000, given {text!r}")
    return Path(folder), int(count)


def serve(
    *,
    model: list[Path] | None = None,
    run: Path | None = None,
    store: str = "ram://",
    then: list[str] = [],
    titles: Path | None = None,
    results: list[Path] = [],
    listening: Listening = Listening(),
    limits: Limits = Limits(),
    rebuilding: Rebuilding = Rebuilding(),
    get: str | None = None,
    work: Work = Work(),
) -> int:
    """Serve a model over HTTP.

    The page at / shows what it does and keeps, and what recipes cost. Without keys anybody who
    reaches it may read, write and erase, so it then listens on the loopback interface only.

    Args:
        model: Model folder, as `gistrec train` writes it. Of several, each with its own --model,
            `gistrec state switch` says which one serves, without a restart; else the first does.
        run: Instead of a model: run file of `gistrec plan`, for the model that it was measured on;
            its recipe is fitted if the model has none.
        store: URL of the store; `ram://` forgets all users at the end, lmdb://folder keeps them,
            redis://host:6379/0 shares them between servers.
        then: Ranker behind the model, as FOLDER=COUNT, with how many candidates it is given; in the
            order of the stages: --then tarq=1000 --then twin=100. POST .../cascade answers through
            all of them.
        titles: Parquet or CSV file with item_id and title, for people; where models lack them.
        results: File of `gistrec bench`, for the page's picture of bytes and accuracy; repeatable.
            Without it, a results.jsonl in or beside the model folder is taken.
        get: Answer one GET of this path, print its body and exit, without a socket.
    """
    from gistrec import server
    from gistrec.recommender import Recommender
    from gistrec.server.budget import ResultFiles

    if (not model) == (run is None):
        raise ConfigError("give either --model FOLDER or --run FILE, as `gistrec plan` writes it")
    if limits.workers > 1 and store.lower().startswith("ram:"):
        raise ConfigError(
            f"{limits.workers} workers would each have users of their own in {store}: give "
            "--store lmdb://folder or redis://host:6379/0, or --workers 1"
        )
    folders = [planned(run, work)] if run is not None else model or []
    at_hand = ResultFiles.found(results, folders)
    certificate, settings = listening.certificate(), limits.settings(listening.keys, at_hand)
    settings = dataclasses.replace(settings, rankers=tuple(_ranker(text) for text in then))
    load = functools.partial(
        Recommender.load, *folders, store=store, titles=titles, rebuilds=rebuilding.limits()
    )
    if get is None:
        load = functools.partial(load, sweep_every_s=_SWEEP_EVERY_S)
        server.serve(
            load,
            host=listening.host,
            port=listening.port,
            open_to_all=listening.open_to_all,
            certificate=certificate,
            processes=limits.workers,
            settings=settings,
        )
        return 0
    with load() as recommender:
        status, _, body = server.get(recommender, get)
    text = body.decode()
    work.show({"status": status, "body": text}, text)
    return int(status >= 400)

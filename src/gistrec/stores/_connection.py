"""Connecting to servers that speak the protocol of Redis, and what the client's errors mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from gistrec.errors import ConfigError, StoreUnavailableError

_REFUSALS = ("MISCONF", "NOREPLICAS")
"""Errors of a server that refuses writes for now, for which the client has no class."""


def passes(error: Exception) -> bool:
    """Whether it is of a server that restarts, moves or changes its role."""
    errors = client_errors()
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
        return False
    away = (errors.ConnectionError, errors.TimeoutError, errors.RedisClusterException)
    changing = (errors.ClusterError, errors.ReadOnlyError, errors.TryAgainError)
    return isinstance(error, (*away, *changing)) or str(error).startswith(_REFUSALS)


def settings_of(
    url: SplitResult, password_file: str, ca_file: str
) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Addresses and settings of the connections."""
    user_info, _, hosts = url.netloc.rpartition("@")
    user, has_password, password = user_info.partition(":")
    try:
        parsed = [urlsplit(f"//{host}") for host in hosts.split(",")]
        addresses = [(p.hostname or "", p.port or 6379) for p in parsed]
    except ValueError:
        addresses = []
    database = url.path.strip("/") or "0"
    if not addresses or not all(host for host, _ in addresses) or not database.isdecimal():
        raise ConfigError(
            f"{url.scheme}://{hosts}{url.path} names no server: write "
            f"{url.scheme}://host:6379/0 with the number of a database"
        )
    settings: dict[str, Any] = {"username": unquote(user) or None, "db": int(database)}
    settings["password"] = unquote(password) if has_password else None
    if password_file:
        try:
            settings["password"] = Path(password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"password_file={password_file} can't be read: {error}") from None
    if url.scheme in ("rediss", "valkeys"):
        if ca_file and not Path(ca_file).is_file():
            raise ConfigError(f"ca_file={ca_file} is not a file: give certificates in PEM")
        settings |= {"ssl": True, "ssl_ca_certs": ca_file or None}
    elif ca_file:
        raise ConfigError(f"ca_file is for TLS: write {url.scheme}s:// in place of {url.scheme}://")
    return addresses, settings


def connected(
    addresses: Iterable[tuple[str, int]], settings: dict[str, Any], name: str, cluster: bool
) -> Any:
    """A client of one server, or of a cluster."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.cluster import ClusterNode, RedisCluster
        from redis.retry import Retry
    except ImportError as missing:
        raise ConfigError(
            f'{name} needs {missing.name}, not installed: run pip install "gistrec[redis]"'
        ) from missing
    settings = settings | {"retry": Retry(NoBackoff(), 0)}  # `_run` repeats, within a time
    if not cluster:
        ((host, port),) = addresses
        return redis.Redis(host=host, port=port, **settings)
    if settings.pop("db"):
        raise ConfigError(f"{name}: a cluster has no databases; leave the number out")
    try:
        return RedisCluster(
            startup_nodes=[ClusterNode(*address) for address in addresses],  # type: ignore[no-untyped-call]  # not annotated
            **settings,
        )
    except raised() as error:
        raise StoreUnavailableError(
            f"can't open the cluster {name}: {error}; name servers that run with "
            "cluster-enabled yes, and the right password"
        ) from None


def raised() -> tuple[type[Exception], ...]:
    """What the client raises on purpose."""
    return client_errors().RedisError, client_errors().RedisClusterException


def client_errors() -> Any:
    """The client's exceptions; it is installed where a store is open."""
    from redis import exceptions

    return exceptions

"""Redis, Valkey and what speaks their protocol: one server, or a cluster of them.

`redis://[user:password@]host[:6379][/database]`; `valkey://` is the same, `rediss://` and
`valkeys://` go over TLS. Options:

- `cluster=on`: the servers are a cluster, and any of them may be named, several with commas:
  `redis://:secret@one:6379,two:6379?cluster=on`. A user's log and state are in one slot.
- `namespace=gistrec`: the first part of all names, for several stores on one server.
- `timeout_s=5`: how long an answer, a restart or a failover is waited for.
- `password_file=`: a file with the password, so that it stands in no command line.
- `ca_file=`: for TLS, the certificates to trust in place of the system's.

What is acknowledged is as safe as the server's settings make it; gistrec asks for nothing more:

- `appendonly yes` with `appendfsync always`: it is on the server's disk, and survives kill -9 and a
  power cut. `appendfsync everysec` (the server's default with appendonly): the last second, or two
  when the disk is busy, may be lost in a power cut, and what waits for a busy disk also when the
  server is killed (`make chaos`: 1,077 of 100,000 in 50 kills, 1 on a cluster).
- `appendonly no`: all since the last snapshot is lost with the server; `open` logs a warning.
- Replicas follow without being waited for: a failover may lose the last writes whatever
  `appendfsync` says, because `WAIT` is not sent. `min-replicas-to-write 1` at least stops a primary
  that has lost its replicas from acknowledging.
- `maxmemory-policy noeviction`, or logs are lost like anything else. Once states have a lifetime
  (`gistrec state limit --state-ttl`) they alone have an expiry of the server's, so `volatile-lru`
  and its like evict states only, which are rebuilt.

A write is repeated after a lost answer, and still done once: it has a token, and each of the 16,384
parts that users are spread over remembers its last 32 writes. Versions are microseconds of the
server's clock, kept growing by that record; they are not used again after a failover either, as
long as clocks agree better than a failover takes.

An entry, `namespace:{part}:key`, is its version (8 bytes, little-endian) and the blob; the record
of a part is `namespace:{part}`.

Source: the protocol and commands of Redis 5 and newer, through redis-py.
Differs: `keys` has the server go through all names that it has, a thousand at a time (SCAN), and
sorts those with the prefix here, from 500,000 on in temporary files: for sweeps and tools, not for
requests.
Entries of different users are read and written one user after the other.
Cost: a round trip a call. The 16,384 records take up to 9 MB; an entry takes 24 bytes and its
key beside the blob, and the server's own 50 to 100.
"""

import hashlib
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Self
from urllib.parse import SplitResult

from gistrec.errors import ConfigError, StoreError, StoreUnavailableError
from gistrec.stores import Entry, Put, Size, StateStore, check_version, group_of, key_bytes
from gistrec.stores._connection import client_errors, connected, passes, raised, settings_of
from gistrec.stores._sorting import distinct

_PARTS = 16384
_VERSION_BYTES = 8
_KEYS_PER_SCAN = 1000

# KEYS: the part's record, then the entries. ARGV: the token; of every entry the version that it
# must have (or ""), "1" to write it and "0" to remove it, the blob, how many ms to keep it (or "").
# The record is written first where memory may be short: a server out of memory refuses the first
# write of a script, never a later one.
_WRITE = b"""
local record = redis.call('GET', KEYS[1]) or ''
local version = #record > 0 and struct.unpack('<I8', record, 9) or 0
for at = 1, #record, 16 do
  if string.sub(record, at, at + 7) == ARGV[1] then
    return struct.unpack('<I8', record, at + 8)
  end
end
local grows = false
for n = 2, #KEYS do
  local head = redis.call('GETRANGE', KEYS[n], 0, 7)
  local present = #head == 8 and struct.unpack('<I8', head) or 0
  local expected = ARGV[4 * n - 6]
  if expected ~= '' and tonumber(expected) ~= present then return {n - 2, present} end
  version = math.max(version, present)
  grows = grows or ARGV[4 * n - 5] == '1'
end
local now = redis.call('TIME')
version = math.max(version + 1, now[1] * 1000000 + now[2])
local packed = struct.pack('<I8', version)
record = ARGV[1] .. packed .. string.sub(record, 1, 16 * 31)
if grows then redis.call('SET', KEYS[1], record) end
for n = 2, #KEYS do
  if ARGV[4 * n - 5] == '0' then
    redis.call('DEL', KEYS[n])
  elseif ARGV[4 * n - 3] == '' then
    redis.call('SET', KEYS[n], packed .. ARGV[4 * n - 4])
  else
    redis.call('SET', KEYS[n], packed .. ARGV[4 * n - 4], 'PX', ARGV[4 * n - 3])
  end
end
if not grows then redis.call('SET', KEYS[1], record) end
return version
"""
_WRITE_SHA = hashlib.sha1(_WRITE).hexdigest()

log = logging.getLogger(__name__)


class Redis(StateStore):
    """Entries on servers that speak the protocol of Redis."""

    def __init__(self, client: Any, name: str, namespace: str, timeout_s: float) -> None:
        self._client: Any = client
        self._name = name
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._cluster = hasattr(client, "get_primaries")

    @classmethod
    def open(
        cls,
        url: SplitResult,
        *,
        cluster: str = "off",
        namespace: str = "gistrec",
        timeout_s: str = "5",
        password_file: str = "",
        ca_file: str = "",
        **unknown: str,
    ) -> Self:
        """Connect, and see that the server answers."""
        if unknown:
            raise ConfigError(
                f"{url.scheme}:// has no options {sorted(unknown)}: allowed: cluster, namespace, "
                "timeout_s, password_file, ca_file"
            )
        if cluster not in ("on", "off"):
            raise ConfigError(f"cluster={cluster} is unknown to {url.scheme}://: allowed: on, off")
        if not re.fullmatch(r"[\w.:-]+", namespace, re.ASCII):
            raise ConfigError(
                f"namespace={namespace} is not a name: give letters, digits and . : _ -"
            )
        if not re.fullmatch(r"\d*\.?\d+", timeout_s) or not float(timeout_s):
            raise ConfigError(f"timeout_s={timeout_s} is not a time: give seconds, for example 5")
        addresses, settings = settings_of(url, password_file, ca_file)
        settings |= {"socket_timeout": float(timeout_s), "socket_connect_timeout": float(timeout_s)}
        name = f"{url.scheme}://{','.join(f'{host}:{port}' for host, port in addresses)}"
        if cluster == "off" and len(addresses) > 1:
            raise ConfigError(f"{name} names several servers: add ?cluster=on, or name one")
        client = connected(addresses, settings, name, cluster == "on")
        store = cls(client, name, namespace, float(timeout_s))
        try:
            store._look_at_server()
        except (ConfigError, StoreError):
            store.close()
            raise
        return store

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of several keys, in one round trip to every server concerned."""
        names = [self._key(key) for key in keys]
        # a command's keys must be in one slot of a cluster
        places: dict[bytes, list[int]] = {}
        for place, name in enumerate(names):
            part = name[: name.index(b"}")] if self._cluster else b""
            places.setdefault(part, []).append(place)
        commands = [["MGET", *(names[p] for p in group)] for group in places.values()]
        found: list[Entry | None] = [None] * len(keys)
        for group, values in zip(places.values(), self._run(commands), strict=True):
            for place, value in zip(group, values, strict=True):
                found[place] = self._entry(names[place], value)
        return found

    def sizes(self, keys: Sequence[str]) -> list[Size | None]:
        """Sizes and versions, in one round trip; blobs stay on the server."""
        names = [self._key(key) for key in keys]
        lengths = [["STRLEN", name] for name in names]
        heads = [["GETRANGE", name, 0, _VERSION_BYTES - 1] for name in names]
        found = self._run(lengths + heads)
        entries = [
            self._entry(n, h or None) for n, h in zip(names, found[len(names) :], strict=True)
        ]
        return [
            Size(max(0, length - _VERSION_BYTES), entry.version) if entry else None
            for length, entry in zip(found, entries, strict=False)
        ]

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """Check and write in one script for every group, all scripts in one round trip."""
        places: dict[bytes, list[int]] = {}
        for place, put in enumerate(puts):
            name = self._key(put.key)
            places.setdefault(name[: name.index(b"}") + 1], []).append(place)
        token = os.urandom(8)
        commands = []
        for record, group in places.items():
            names = [self._key(puts[p].key) for p in group]
            command = ["EVALSHA", _WRITE_SHA, 1 + len(names), record, *names, token]
            for _, blob, if_version, ttl_s in (puts[p] for p in group):
                command += ["" if if_version is None else if_version, "0" if blob is None else "1"]
                command += [blob or b"", "" if ttl_s is None else max(1, round(ttl_s * 1e3))]
            commands.append(command)
        versions = [0] * len(puts)
        for group, answer in zip(places.values(), self._run(commands), strict=True):
            if isinstance(answer, list):
                wrong, present = answer
                check_version(puts[group[wrong]], present)
            for place in group:
                versions[place] = 0 if puts[place].blob is None else answer
        return versions

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys with a prefix, sorted here, without holding more than a part of them."""
        raw = prefix.encode()
        literal = re.sub(rb"([*?\[\]\\])", rb"\\\1", raw)
        pattern = b"%s:{*}:%s*" % (self._namespace.encode(), literal)
        scan = self._open_client().scan_iter(match=pattern, count=_KEYS_PER_SCAN)
        found = (name[name.index(b"}:") + 2 :] for name in scan)
        try:
            # the server gives them in its own order, some twice
            for key in distinct(key for key in found if key.startswith(raw)):
                yield key.decode()
        except raised() as error:
            raise self._told(error) from None

    def written_at(self, version: int) -> float:
        """Versions are microseconds."""
        return version / 1e6

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()
        self._client = None

    # ---- internals ----

    def _key(self, key: str) -> bytes:
        """A key's name on the server; the part in braces decides on the slot."""
        raw = key_bytes(key)
        part = zlib.crc32(group_of(key).encode()) % _PARTS
        return b"%s:{%d}:%s" % (self._namespace.encode(), part, raw)

    def _entry(self, name: bytes, value: bytes | None) -> Entry | None:
        if value is None:
            return None
        if len(value) < _VERSION_BYTES:
            raise StoreError(
                f"{self._name} holds {name[:80]!r}, which gistrec did not write: give another "
                "?namespace="
            )
        version = int.from_bytes(value[:_VERSION_BYTES], "little")
        return Entry(value[_VERSION_BYTES:], version)

    def _open_client(self) -> Any:
        if self._client is None:
            raise StoreError(f"the store at {self._name} was closed: open it again")
        return self._client

    def _look_at_server(self) -> None:
        """See that it answers, and say what would be found out too late."""
        client = self._open_client()
        node = {"target_nodes": client.get_primaries()[0]} if self._cluster else {}
        try:
            info = client.info(**node)
        except client_errors().NoPermissionError:
            info = {}
            self.get("-")  # what is needed counts
        except raised() as error:
            raise self._told(error) from None
        if info.get("cluster_enabled") and not self._cluster:
            raise ConfigError(f"{self._name} is part of a cluster: add ?cluster=on")
        if info.get("aof_enabled") == 0:
            log.warning(
                "%s has appendonly no: what it acknowledged is lost when it stops: set it to yes",
                self._name,
            )

    def _run(self, commands: Sequence[list[Any]]) -> list[Any]:
        """The answers to commands, repeated while the server is away for a moment."""
        if not commands:
            return []
        deadline, pause_s = time.monotonic() + self._timeout_s, 0.01
        while True:
            try:
                return self._answers(commands)
            except raised() as error:
                if not passes(error) or time.monotonic() + pause_s > deadline:
                    raise self._told(error) from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.5)

    def _answers(self, commands: Sequence[list[Any]]) -> list[Any]:
        answers = self._sent(commands)
        unknown = [n for n, a in enumerate(answers) if isinstance(a, client_errors().NoScriptError)]
        if unknown:  # a server that was started anew
            texts = [["EVAL", _WRITE, *commands[n][2:]] for n in unknown]
            for n, answer in zip(unknown, self._sent(texts), strict=True):
                answers[n] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _sent(self, commands: Sequence[list[Any]]) -> list[Any]:
        client = self._open_client()
        if len(commands) == 1:
            try:
                return [client.execute_command(*commands[0])]
            except client_errors().NoScriptError as error:
                return [error]
        pipeline = client.pipeline() if self._cluster else client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _told(self, error: Exception) -> StoreError:
        """What an error of the client means here; the client puts commands into some of them."""
        errors, text = client_errors(), str(error).rpartition("caused error: ")[2].rstrip(".")
        if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
            return StoreUnavailableError(
                f"{self._name} refuses user or password: {text}; write "
                "redis://user:password@host, or give ?password_file="
            )
        if isinstance(error, errors.NoPermissionError):
            return StoreUnavailableError(
                f"{self._name} does not allow it: {text}; the user needs the commands get, mget, "
                "set, del, getrange, strlen, time, scan, info, eval and evalsha"
            )
        if isinstance(error, errors.OutOfMemoryError):
            return StoreUnavailableError(
                f"{self._name} has reached its maxmemory: {text}; nothing was written, give it "
                "more memory"
            )
        if passes(error) and isinstance(error, errors.ResponseError):
            return StoreUnavailableError(f"{self._name} refuses: {text}; nothing was written")
        if isinstance(error, errors.ResponseError):
            return StoreError(f"{self._name}: {text}; nothing was written")
        return StoreUnavailableError(
            f"{self._name} does not answer: {text}; start it or name another server (a write that "
            "was under way may have been kept or not)"
        )

"""API keys: who may call which operations.

A key file has one JSON object a line: a name, scopes, a date, and the SHA-256 of the key. The key
itself is 256 random bits, shown once; of so much chance a plain hash gives nothing away. A running
server reads the file again when it changes, so that a revoked key is refused within a second.
"""

import datetime
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from gistrec.errors import ConfigError
from gistrec.server.errors import ForbiddenError, UnauthenticatedError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "gistrec_"
"""Keys begin with it, so that tools which look for leaked secrets can know them."""
_FRESH_S = 1.0

log = logging.getLogger(__name__)


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    scopes: Annotated[list[Scope], Meta(min_length=1)]
    """A scope implies no other: a key for appends can't read, and none but admin can erase."""
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """Of the key's text, in hexadecimal digits."""
    created: str
    """The date, UTC."""


class KeyRing:
    """The keys of a file, as it is now.

    Args:
        path: A file that `add_key` wrote.

    Raises:
        ConfigError: it can't be read, is not a key file, or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamped()
        self._keys = read_keys(path)
        self._read_at = time.monotonic()
        if not self._keys:
            raise ConfigError(
                f"{path} holds no key: gistrec keys add {path} --name ... --scope ..."
            )

    def check(self, authorization: str | None, scope: Scope) -> str:
        """The name of the key that a request's `Authorization` header holds.

        Raises:
            UnauthenticatedError: there is no key, or an unknown one. ForbiddenError: the key does
                not have the scope.
        """
        key = self.known(authorization)
        if scope not in key.scopes:
            raise ForbiddenError(
                f"key {key.name!r} has {', '.join(key.scopes)}, this needs {scope}: use another key"
            )
        return key.name

    def known(self, authorization: str | None) -> Key:
        """What is kept of the key that a request's `Authorization` header holds.

        Raises:
            UnauthenticatedError: there is no key, or an unknown one.
        """
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise UnauthenticatedError(
                "no key given: send the header Authorization: Bearer KEY; "
                "`gistrec keys add` makes keys"
            )
        key = self._find(token.strip())
        if key is None:
            raise UnauthenticatedError("this key is unknown or revoked: ask for another one")
        return key

    def _find(self, token: str) -> Key | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for key in self._current():  # all of them, and each in constant time
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _current(self) -> Sequence[Key]:
        now = time.monotonic()
        if now - self._read_at > _FRESH_S:
            self._read_at = now
            try:
                stamp = self._stamped()
                if stamp != self._stamp:
                    self._keys, self._stamp = read_keys(self._path), stamp
            except ConfigError as error:
                log.error("the keys stay as they were: %s", error)
        return self._keys

    def _stamped(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from None
        return found.st_ino, found.st_mtime_ns, found.st_size


def read_keys(path: Path) -> list[Key]:
    """What a key file holds.

    Raises:
        ConfigError: it can't be read or is not a key file; the message names the line, and nothing
            that stands in it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise _unreadable(path, error) from None
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            keys.append(msgspec.json.decode(line, type=Key))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ConfigError(
                f"{path}, line {number} is not a key: write key files with `gistrec keys`"
            ) from None
    return keys


def add_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Make a key and add its hash to a file, which is made if it is not there.

    Returns:
        The key; it is kept nowhere.

    Raises:
        ConfigError: the name is taken, or not of 1 to 100 characters; or no scope is given.
    """
    keys = read_keys(path) if path.exists() else []
    if not 1 <= len(name) <= 100:
        raise ConfigError(f"a key's name has {len(name)} characters, allowed are 1 to 100")
    if any(key.name == name for key in keys):
        raise ConfigError(f"{path} has a key {name!r}: revoke it first, or give another --name")
    if not scopes:
        raise ConfigError(f"a key needs at least one --scope of {', '.join(SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    granted = [scope for scope in SCOPES if scope in scopes]
    _write(path, [*keys, Key(name, granted, digest, today)])
    return token


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of a file; running servers refuse it within a second.

    Raises:
        ConfigError: the file has no such key.
    """
    keys = read_keys(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        names = ", ".join(repr(key.name) for key in keys) or "none"
        raise ConfigError(f"{path} has no key {name!r}; it has {names}")
    _write(path, left)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """The file whole or not at all, readable for its owner only."""
    part = path.with_name(path.name + ".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.Encoder().encode_lines(keys))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} can't be read as a key file ({error.strerror}): make one with `gistrec keys add`"
    )

"""Codec and store together: states by user, and the only place where their bytes are counted.

A state is derived from the history log, so it may be lost, outdated or damaged without harm: the
caller rebuilds it.

Up to 2,000 bytes a state is one value. A larger one is laid out for appending: a sealed block, and
a small tail with the slots that came after it. Saving a state that only gained slots writes the
tail; when that passes 2,000 bytes, the block is sealed anew. Codecs that move older slots (eviction
at its limit) change the block, so their states are written whole; they are meant to be small.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from gistrec import codecs, wire
from gistrec.codecs import Chain
from gistrec.errors import ConfigError, ConflictError, CorruptStateError, FormatVersionError
from gistrec.manifest import Manifest
from gistrec.state import UserState, slot_axis
from gistrec.stores import Entry, Put, StateStore
from gistrec.wire import check_user_id

RECIPE_VERSION = 1
_JSON, _TABLES = "recipe.json", "recipe.safetensors"
_PREFIX = "s/"
_SEALED = "q/"
_TAIL_MARK = b"\0"
"""First byte of a tail; a whole state begins with its format version."""
_CRC_BYTES = 4
_TAIL_BYTES = 2000
"""A longer tail is sealed, and a state up to this size is not divided."""
_KEYS_PER_READ = 256


@dataclass(frozen=True)
class Recipe:
    """A fitted chain and its manifest: all that is needed to turn states into bytes and back."""

    chain: Chain
    manifest: Manifest

    @classmethod
    def fit(cls, chain: Chain | str, states: Sequence[UserState], *, model: str) -> Self:
        """Fit a chain on sample states, and its byte codecs on the packed samples.

        Args:
            chain: The chain or its spec.
            states: States as the backbone writes them, of different lengths and very short ones
                among them: a dimension in which they do not differ counts as fixed.
            model: Fingerprint of the model that wrote them.

        Raises:
            StateError: the samples do not have the same tensors, or all have one length.
        """
        chain = (codecs.parse(chain) if isinstance(chain, str) else chain).fit(states)
        encoded = chain.encode_many(states)
        manifest = wire.manifest_of(encoded, model=model, codec=str(chain), tables={})
        if chain.byte_codecs:
            chain = chain.fit_bytes([wire.payload(state, manifest) for state in encoded])
        else:
            wire.payload(encoded[0], manifest)  # one shows whether they are the model's
        return cls(chain, replace(manifest, tables=wire.digest(chain.all_tables())))

    @property
    def shared_bytes(self) -> int:
        """Bytes of the fitted tables, which all users share."""
        return sum(t.numel() * t.element_size() for t in self.chain.all_tables().values())

    def to_bytes(self, state: UserState) -> bytes:
        """What is stored of a state.

        Raises:
            StateError: it has tensors or sizes that the samples did not have.
        """
        return self.pack(self.chain.encode(state))

    def pack(self, encoded: UserState) -> bytes:
        """What is stored of an encoded state."""
        return wire.pack(encoded, self.manifest, compress=self.chain.compress)

    def from_bytes(self, blob: bytes) -> UserState:
        """A state that the backbone can read, from what `to_bytes` made of one.

        Raises:
            StaleStateError: another recipe's. CorruptStateError: damaged.
            FormatVersionError: written in another format version.
        """
        return self.chain.decode(wire.unpack(blob, self.manifest, expand=self.chain.expand))

    def round_trip(self, state: UserState) -> UserState:
        """What `from_bytes` gives back of a state; packing loses nothing, so it is left out."""
        return self.chain.decode(self.chain.encode(state))

    def save(self, folder: Path) -> None:
        """Write recipe.json and recipe.safetensors, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {name: t.contiguous().clone() for name, t in self.chain.all_tables().items()}
        _write(folder / _TABLES, safetensors.torch.save(tables))
        plain = {"version": RECIPE_VERSION, "manifest": self.manifest.to_json()}
        _write(folder / _JSON, (json.dumps(plain, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no recipe. CorruptStateError: the files are damaged or not of one
                recipe. FormatVersionError: written by a newer gistrec.
        """
        remedy = "give a folder that Recipe.save wrote, or fit the recipe again"
        try:
            plain = json.loads((folder / _JSON).read_bytes())
            tables = safetensors.torch.load((folder / _TABLES).read_bytes())
            version, manifest = plain["version"], plain["manifest"]
        except FileNotFoundError as error:
            raise ConfigError(f"no recipe in {folder}: {error}; {remedy}") from None
        except (ValueError, TypeError, KeyError, SafetensorError) as error:
            raise CorruptStateError(
                f"the recipe in {folder} is damaged: {error!r}; {remedy}"
            ) from None
        if version != RECIPE_VERSION:
            raise FormatVersionError(
                f"the recipe in {folder} has version {version}, this gistrec reads version "
                f"{RECIPE_VERSION}: use the gistrec that wrote it, or fit the recipe again"
            )
        manifest = Manifest.from_json(manifest)
        if wire.digest(tables) != manifest.tables:
            raise CorruptStateError(f"{_TABLES} in {folder} does not belong to {_JSON}: {remedy}")
        return cls(codecs.parse(manifest.codec).with_tables(tables), manifest)


class _Sealed(NamedTuple):
    """The part of a large state that stays as it is while the state grows."""

    encoded: UserState
    crc: bytes
    """The blob's own checksum, by which the tail names it."""
    nbytes: int


class Held(NamedTuple):
    """A stored state."""

    state: UserState
    """Decoded: what a backbone reads."""
    version: int
    """To be given to `save`, so that nobody's write in between is lost."""
    stored_bytes: int
    encoded: UserState
    """As it is stored; what grows from it is not encoded again."""
    sealed: _Sealed | None = None
    """The sealed block it stands on, if it is a large state."""


class Stored(NamedTuple):
    """What a store holds of a user's state, as of one moment."""

    entry: Entry | None
    """The whole state, or its tail."""
    block: Entry | None
    """The sealed block that a tail stands on."""

    @property
    def version(self) -> int:
        """To be given to `save`, whether the state can be read or not; 0 if there is none."""
        return self.entry.version if self.entry else 0

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return sum(len(found.blob) for found in self if found)


class CacheStats(NamedTuple):
    """Bytes of all states in a store; keys and the engine's own overhead are not counted."""

    users: int
    bytes_total: int
    bytes_p50: float
    bytes_p99: float


class StateCache:
    """States by user in a store, as a recipe's bytes."""

    def __init__(self, recipe: Recipe, store: StateStore) -> None:
        self.recipe = recipe
        self._store = store

    def load(self, user_id: str) -> Held | None:
        """A user's state, or None: `read` and `decode`."""
        return self.decode(user_id, self.read(user_id))

    def read(self, user_id: str) -> Stored:
        """What is stored of a user's state, as it is."""
        check_user_id(user_id)
        return Stored(*self._store.get_many([_PREFIX + user_id, _SEALED + user_id]))

    def decode(self, user_id: str, stored: Stored) -> Held | None:
        """The state of what `read` gave, or None if that was nothing.

        Raises:
            StaleStateError: it is of another model or recipe. CorruptStateError: it is damaged.
            FormatVersionError: it was written in another format version.
        """
        entry, block = stored
        if entry is None:
            return None
        if not entry.blob.startswith(_TAIL_MARK):
            encoded = self._unpack(entry.blob)
            state = self.recipe.chain.decode(encoded)
            return Held(state, entry.version, stored.nbytes, encoded)
        crc, tail = entry.blob[1 : 1 + _CRC_BYTES], entry.blob[1 + _CRC_BYTES :]
        if block is None or block.blob[-_CRC_BYTES:] != crc:
            raise CorruptStateError(
                f"the tail of user {user_id!r}'s state stands on a sealed block that is not there: "
                "rebuild the state from the history log"
            )
        sealed = _Sealed(self._unpack(block.blob), crc, len(block.blob))
        encoded = _joined(sealed.encoded, self._unpack(tail))
        state = self.recipe.chain.decode(encoded)
        return Held(state, entry.version, stored.nbytes, encoded, sealed)

    def version(self, user_id: str) -> int:
        """The version of a user's entry, readable or not; 0 if there is none."""
        return self.read(user_id).version

    def stored_bytes(self, user_id: str) -> int:
        """What a user's state takes, readable or not; 0 if there is none."""
        return self.read(user_id).nbytes

    def save(
        self,
        user_id: str,
        state: UserState,
        *,
        if_version: int | None = None,
        grown_from: Held | None = None,
    ) -> Held:
        """Store a user's state.

        Args:
            user_id: Whose it is.
            state: As a backbone writes it.
            if_version: Save only if the stored entry is at this version (0: there is none).
            grown_from: What `state` is the state of, with new events behind it: what is known of it
                is not encoded again, and what is sealed and still holds not written. Implies its
                version.

        Returns:
            The state as `load` will give it back.

        Raises:
            ConflictError: the entry is at another version.
        """
        chain, sealed = self.recipe.chain, None
        if grown_from is None:
            encoded = chain.encode(state)
            decoded = chain.decode(encoded)
        else:
            (encoded,), (decoded,) = chain.encode_grown([state], [grown_from.encoded])
            sealed = grown_from.sealed
            if_version = grown_from.version
        key, block_key = _PREFIX + check_user_id(user_id), _SEALED + user_id
        puts = [] if sealed is None else self._tail_puts(key, encoded, sealed, if_version)
        if not puts:
            blob, sealed = self.recipe.pack(encoded), None
            puts = [Put(key, blob, if_version), Put(block_key, None)]
            if len(blob) > _TAIL_BYTES and self._grows():
                sealed = _Sealed(encoded, blob[-_CRC_BYTES:], len(blob))
                puts = [*self._tail_puts(key, encoded, sealed, if_version), Put(block_key, blob)]
        version = self._store.put_many(puts)[0]
        stored = len(puts[0].blob or b"") + (sealed.nbytes if sealed else 0)
        return Held(decoded, version, stored, encoded, sealed)

    def forget(self, user_id: str) -> bool:
        """Remove a user's state, readable or not; whether there was one."""
        while True:
            stored = self.read(user_id)
            if not any(stored):
                return False
            try:
                self._store.put_many(
                    [Put(_PREFIX + user_id, None, stored.version), Put(_SEALED + user_id, None)]
                )
            except ConflictError:
                continue  # saved in between
            return True

    def stats(self) -> CacheStats:
        """Count users and bytes; reads every state."""
        users = [key.removeprefix(_PREFIX) for key in self._store.keys(_PREFIX)]
        sizes = []
        for start in range(0, len(users), _KEYS_PER_READ):
            part = users[start : start + _KEYS_PER_READ]
            found = self._store.get_many([k + user for k in (_PREFIX, _SEALED) for user in part])
            pairs = map(Stored, found[: len(part)], found[len(part) :])
            sizes += [stored.nbytes for stored in pairs if stored.entry]
        p50, p99 = np.percentile(sizes or [0], [50, 99])
        return CacheStats(len(sizes), sum(sizes), float(p50), float(p99))

    # ---- internals ----

    def _unpack(self, blob: bytes) -> UserState:
        recipe = self.recipe
        return wire.unpack(blob, recipe.manifest, expand=recipe.chain.expand)

    def _grows(self) -> bool:
        """Whether all of a state's slot tensors gain slots; a recurrent state changes whole."""
        shapes = [s.shape for s in self.recipe.manifest.tensors if not s.name.startswith("tail.")]
        return all(shape and shape[-1 if len(shape) == 1 else -2] in (-1, 0) for shape in shapes)

    def _tail_puts(
        self, key: str, encoded: UserState, sealed: _Sealed, if_version: int | None
    ) -> list[Put]:
        """The write of a tail; nothing if the sealed block does not hold or the tail is long."""
        part = _after(encoded, sealed.encoded)
        if part is None:
            return []
        blob = _TAIL_MARK + sealed.crc + self.recipe.pack(part)
        return [Put(key, blob, if_version)] if len(blob) <= _TAIL_BYTES else []


def _after(encoded: UserState, sealed: UserState) -> UserState | None:
    """The slots that follow those of a sealed state; None if those are not the first ones."""
    part = dict(encoded.tensors)
    for name, tensor in encoded.slots():
        axis = slot_axis(name, tensor)
        count = sealed.tensors[name].shape[axis]  # parts of a tensor may have slots of their own
        if tensor.shape[axis] < count:
            return None
        # as bytes: NaN and -0.0 count as what they are
        first, old = tensor.narrow(axis, 0, count).contiguous(), sealed.tensors[name].contiguous()
        if not torch.equal(first.view(torch.uint8), old.view(torch.uint8)):
            return None
        part[name] = tensor.narrow(axis, count, tensor.shape[axis] - count)
    return encoded.replace(part)


def _joined(sealed: UserState, part: UserState) -> UserState:
    """The inverse of `_after`."""
    tensors = dict(part.tensors)
    for name, tensor in part.slots():
        tensors[name] = torch.cat([sealed.tensors[name], tensor], slot_axis(name, tensor))
    return part.replace(tensors)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)

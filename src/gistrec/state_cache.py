"""Codec and store together: states by user, and the only place where their bytes are counted.

A state is derived from the history log, so it may be lost, outdated or damaged without harm: the
caller rebuilds it.

Every version (model and recipe) has states of its own; a user who is forgotten loses all of them.

Up to 2,000 bytes a state is one value. A larger one is laid out for appending: a sealed block, and
a small tail with the slots that came after it. Saving a state that only gained slots writes the
tail; when that passes 2,000 bytes and a 32nd of the block, the block is sealed anew. Codecs that
move older slots (eviction at its limit) change the block, so their states are written whole.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from gistrec import wire
from gistrec.backbones import Direct
from gistrec.dataset import History
from gistrec.errors import ConflictError, CorruptStateError, StateError, StoreError
from gistrec.recipe import Recipe
from gistrec.state import UserState, slot_axis
from gistrec.store_settings import StoreSettings, Version
from gistrec.stored_states import UNVERSIONED, block_key, state_key, states_of
from gistrec.stores import Entry, Put, StateStore
from gistrec.wire import check_user_id

_TAIL_MARK = b"\0"
"""First byte of a tail; a whole state begins with its format version."""
_CRC_BYTES = 4
WHOLE_BYTES = 2000
"""A state up to this size is not divided, and a tail up to it is not sealed."""
_TAIL_SHARE = 1 / 32
"""Nor is a tail up to this part of its block: to seal anew is to write all of it."""
_ANEW = 4
"""A block that is older than this part of a state's lifetime is sealed anew, so that it never goes
before its tail does."""


class _Sealed(NamedTuple):
    """The part of a large state that stays as it is while the state grows."""

    encoded: UserState
    crc: bytes
    """The blob's own checksum, by which the tail names it."""
    nbytes: int
    version: int
    """Of its entry."""


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
    """States by user in a store, as a recipe's bytes.

    Args:
        recipe: How a state becomes bytes.
        store: Where they are kept.
        settings: Of that store; None makes them.
    """

    def __init__(
        self, recipe: Recipe, store: StateStore, settings: StoreSettings | None = None
    ) -> None:
        self.recipe = recipe
        self.version = f"{recipe.manifest.id:08x}"
        """Names model and recipe in the keys."""
        self.settings = settings or StoreSettings(store)
        self._store = store
        self.described = Version(recipe.manifest.model, recipe.manifest.codec)
        """What the store's settings say of this version."""

    def keys(self, user_id: str) -> list[str]:
        """Of a user's state, or its tail, and of its block."""
        check_user_id(user_id)
        return [state_key(self.version, user_id), block_key(self.version, user_id)]

    def load(self, user_id: str) -> Held | None:
        """A user's state, or None: `read` and `decode`."""
        return self.decode(user_id, self.read(user_id))

    def read(self, user_id: str) -> Stored:
        """What is stored of a user's state, as it is."""
        return Stored(*self._store.get_many(self.keys(user_id)))

    def read_many(self, user_ids: Sequence[str]) -> list[Stored]:
        """What is stored of several users' states."""
        keys = [key for user_id in user_ids for key in self.keys(user_id)]
        found = self._store.get_many(keys)
        return [Stored(*found[n : n + 2]) for n in range(0, len(found), 2)]

    def decode(self, user_id: str, stored: Stored) -> Held | None:
        """The state of what `read` gave, or None if that was nothing.

        Nothing, too, is a tail whose block an engine evicted.

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
        if block is None:
            return None
        if block.blob[-_CRC_BYTES:] != crc:
            raise CorruptStateError(
                f"the tail of user {user_id!r}'s state stands on another sealed block: rebuild the "
                "state from the history log"
            )
        sealed = self._sealed(self._unpack(block.blob), block)
        encoded = _joined(sealed.encoded, self._unpack(tail))
        state = self.recipe.chain.decode(encoded)
        return Held(state, entry.version, stored.nbytes, encoded, sealed)

    def grown(
        self, direct: Direct, user_id: str, stored: Stored, length: int, new: History, counted: int
    ) -> list[Put]:
        """What is to be written when a stored state, which must cover `length` events, gains some.

        The model knows the `new` ones of `counted`. Nothing: `direct` can't read the state.
        """
        entry, block = stored
        if entry is None:
            return []
        key, key_of_block = self.keys(user_id)
        ttl_s = self.settings.recent().state_ttl_s
        tail_bytes = 0
        if block is not None and self._may_stay(block.version, ttl_s):
            tail_bytes = _longest_tail(len(block.blob))
        was = entry.blob, block and block.blob, length
        grown = direct.grow(*was, new, counted=counted, tail_bytes=tail_bytes)
        if grown is None:
            return []
        self.settings.register(self.version, self.described)
        puts = [Put(key, grown.state, entry.version, ttl_s)]
        if grown.block is not None:
            puts.append(Put(key_of_block, grown.block, ttl_s=_longer(ttl_s)))
        elif block is not None and not grown.is_tail:
            puts.append(Put(key_of_block, None))
        return puts

    def stored_bytes(self, user_id: str) -> int:
        """What a user's state takes, readable or not; 0 if there is none."""
        return sum(size.nbytes for size in self._store.sizes(self.keys(user_id)) if size)

    def covered(self, stored: Stored) -> int:
        """How many events a state covers, by its header alone; 0 if it can't be read."""
        blob = stored.entry.blob if stored.entry else b""
        if blob.startswith(_TAIL_MARK):
            if stored.block is None or stored.block.blob[-_CRC_BYTES:] != blob[1 : 1 + _CRC_BYTES]:
                return 0
            blob = blob[1 + _CRC_BYTES :]
        try:
            return wire.covered(blob, self.recipe.manifest)
        except StateError:
            return 0

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
        puts, crc = self._puts(user_id, encoded, sealed, if_version)
        self.settings.register(self.version, self.described)
        versions = self._store.put_many(puts)
        if crc and len(puts) > 1:  # sealed anew
            block = Entry(puts[1].blob or b"", versions[1])
            sealed = self._sealed(encoded, block)
        elif not crc:
            sealed = None
        stored = len(puts[0].blob or b"") + (sealed.nbytes if sealed else 0)
        return Held(decoded, versions[0], stored, encoded, sealed)

    def save_many(self, users: Sequence[tuple[str, UserState, int]]) -> list[bool]:
        """Store states of several users in one write.

        Args:
            users: Id, state as a backbone writes it, and the version that the entry must have.

        Returns:
            Of each, whether it was stored; not if somebody else wrote the user's state first.
        """
        self.settings.register(self.version, self.described)
        encoded = self.recipe.chain.encode_many([state for _, state, _ in users])
        groups = [
            self._puts(user_id, state, None, if_version)[0]
            for (user_id, _, if_version), state in zip(users, encoded, strict=True)
        ]
        try:
            self._store.put_many([put for puts in groups for put in puts])
        except ConflictError:
            return [self._written(puts) for puts in groups]
        return [True] * len(groups)

    def touch(self, user_id: str, stored: Stored) -> bool:
        """Write a state as it is if it was written so long ago that it would count as unused.

        Whether it was written. Nothing is lost if it could not be, so that is no error.
        """
        entry, block = stored
        settings = self.settings.recent()
        age_s = time.time() - self._store.written_at(stored.version) if entry else 0.0
        if entry is None or age_s <= settings.touch_s:
            return False
        keys, ttl_s = self.keys(user_id), settings.state_ttl_s
        puts = [Put(keys[0], entry.blob, entry.version, ttl_s)]
        puts += [Put(keys[1], block.blob, block.version, _longer(ttl_s))] if block else []
        try:
            self._store.put_many(puts)
        except StoreError:
            return False
        return True

    def forget(self, user_id: str) -> bool:
        """Remove a user's states of all versions, readable or not; whether there was one."""
        check_user_id(user_id)
        versions = {self.version, UNVERSIONED, *self.settings.read().versions}
        keys = [key(version, user_id) for version in versions for key in (state_key, block_key)]
        while True:
            sizes = zip(keys, self._store.sizes(keys), strict=True)
            puts = [Put(key, None, size.version) for key, size in sizes if size]
            if not puts:
                return False
            try:
                self._store.put_many(puts)
            except ConflictError:
                continue  # saved in between
            return True

    def stats(self) -> CacheStats:
        """Count users and bytes of this version; asks for the size of every state."""
        sizes = [
            state.nbytes
            for states in states_of(self._store, self.version)
            for state in states
            if state.entry_version
        ]
        p50, p99 = np.percentile(sizes or [0], [50, 99])
        return CacheStats(len(sizes), sum(sizes), float(p50), float(p99))

    # ---- internals ----

    def _unpack(self, blob: bytes) -> UserState:
        recipe = self.recipe
        return wire.unpack(blob, recipe.manifest, expand=recipe.chain.expand)

    def _sealed(self, encoded: UserState, block: Entry) -> _Sealed:
        blob = block.blob
        return _Sealed(encoded, blob[-_CRC_BYTES:], len(blob), block.version)

    def _may_stay(self, block_version: int, ttl_s: float | None) -> bool:
        """Whether a sealed block is young enough to get another tail."""
        if ttl_s is None:
            return True
        return time.time() - self._store.written_at(block_version) < ttl_s / _ANEW

    def _puts(
        self, user_id: str, encoded: UserState, sealed: _Sealed | None, if_version: int | None
    ) -> tuple[list[Put], bytes]:
        """The writes of a state, its entry's first; and the checksum of the block it stands on."""
        key, key_of_block = self.keys(user_id)
        ttl_s = self.settings.recent().state_ttl_s
        if sealed is not None and self._may_stay(sealed.version, ttl_s):
            tail = self._tail(encoded, sealed.encoded, sealed.crc, sealed.nbytes)
            if tail:
                return [Put(key, tail, if_version, ttl_s)], sealed.crc
        blob = self.recipe.pack(encoded)
        if len(blob) > WHOLE_BYTES and self.recipe.grows:
            crc = blob[-_CRC_BYTES:]
            if tail := self._tail(encoded, encoded, crc, len(blob)):
                block = Put(key_of_block, blob, ttl_s=_longer(ttl_s))
                return [Put(key, tail, if_version, ttl_s), block], crc
        return [Put(key, blob, if_version, ttl_s), Put(key_of_block, None)], b""

    def _tail(self, encoded: UserState, sealed: UserState, crc: bytes, sealed_bytes: int) -> bytes:
        """The bytes of a tail; none if the sealed block does not hold or the tail is long."""
        part = _after(encoded, sealed)
        blob = b"" if part is None else _TAIL_MARK + crc + self.recipe.pack(part)
        return blob if len(blob) <= _longest_tail(sealed_bytes) else b""

    def _written(self, puts: list[Put]) -> bool:
        try:
            self._store.put_many(puts)
        except ConflictError:
            return False
        return True


def _longest_tail(block_bytes: int) -> int:
    return max(WHOLE_BYTES, int(block_bytes * _TAIL_SHARE))


def _longer(ttl_s: float | None) -> float | None:
    """How long a block is kept, that may be a part of a lifetime older than its tail."""
    return None if ttl_s is None else ttl_s * (1 + 1 / _ANEW)


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

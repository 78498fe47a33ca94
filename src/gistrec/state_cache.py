"""Codec and store together: states by user, and the only place where their bytes are counted.

A state is derived from the history log, so it may be lost, outdated or damaged without harm: the
caller rebuilds it. It is written as one value whatever its size, which suits states up to about
2 KB; a larger one is rewritten whole at every append.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import safetensors.torch
from safetensors import SafetensorError

from gistrec import codecs, wire
from gistrec.codecs import Chain
from gistrec.errors import ConfigError, CorruptStateError, FormatVersionError
from gistrec.manifest import Manifest
from gistrec.state import UserState
from gistrec.stores import StateStore
from gistrec.wire import check_user_id

RECIPE_VERSION = 1
_JSON, _TABLES = "recipe.json", "recipe.safetensors"
_PREFIX = "s/"
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
        encoded = [chain.encode(state) for state in states]
        manifest = wire.manifest_of(encoded, model=model, codec=str(chain), tables={})
        chain = chain.fit_bytes([wire.payload(state, manifest) for state in encoded])
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
        return wire.pack(self.chain.encode(state), self.manifest, compress=self.chain.compress)

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


class Held(NamedTuple):
    """A stored state."""

    state: UserState
    """Decoded: what a backbone reads."""
    version: int
    """To be given to `save`, so that nobody's write in between is lost."""
    stored_bytes: int


class Receipt(NamedTuple):
    """What saving cost."""

    stored_bytes: int
    version: int


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
        """A user's state, or None.

        Raises:
            StaleStateError: it is of another model or recipe. CorruptStateError: it is damaged.
            FormatVersionError: it was written in another format version.
        """
        entry = self._store.get(_key(user_id))
        if entry is None:
            return None
        return Held(self.recipe.from_bytes(entry.blob), entry.version, len(entry.blob))

    def version(self, user_id: str) -> int:
        """The version of a user's entry, readable or not; 0 if there is none."""
        entry = self._store.get(_key(user_id))
        return entry.version if entry else 0

    def stored_bytes(self, user_id: str) -> int:
        """What a user's entry takes, readable or not; 0 if there is none."""
        entry = self._store.get(_key(user_id))
        return len(entry.blob) if entry else 0

    def save(self, user_id: str, state: UserState, *, if_version: int | None = None) -> Receipt:
        """Store a user's state.

        Raises:
            ConflictError: the entry is not at `if_version` (0: there is one).
        """
        blob = self.recipe.to_bytes(state)
        return Receipt(len(blob), self._store.put(_key(user_id), blob, if_version=if_version))

    def forget(self, user_id: str) -> bool:
        """Remove a user's state, readable or not; whether there was one."""
        return self._store.delete(_key(user_id))

    def stats(self) -> CacheStats:
        """Count users and bytes; reads every state."""
        keys = list(self._store.keys(_PREFIX))
        sizes = [
            len(entry.blob)
            for start in range(0, len(keys), _KEYS_PER_READ)
            for entry in self._store.get_many(keys[start : start + _KEYS_PER_READ])
            if entry
        ]
        p50, p99 = np.percentile(sizes or [0], [50, 99])
        return CacheStats(len(sizes), sum(sizes), float(p50), float(p99))


def _key(user_id: str) -> str:
    return _PREFIX + check_user_id(user_id)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)

"""A fitted chain and its manifest: all that is needed to turn states into bytes and back."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import safetensors.torch
from safetensors import SafetensorError

from gistrec import codecs, wire
from gistrec.backbones import Backbone, Direct, Layout
from gistrec.codecs import Chain
from gistrec.errors import ConfigError, CorruptStateError, FormatVersionError
from gistrec.kernels.packed import Coded
from gistrec.manifest import Manifest
from gistrec.state import UserState

RECIPE_VERSION = 1
_JSON, _TABLES = "recipe.json", "recipe.safetensors"


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

    @cached_property
    def grows(self) -> bool:
        """Whether all of a state's slot tensors gain slots; a recurrent state changes whole."""
        shapes = [s.shape for s in self.manifest.tensors if not s.in_tail]
        return all(shape and shape[-1 if len(shape) == 1 else -2] in (-1, 0) for shape in shapes)

    def direct(self, backbone: Backbone, *, whole_bytes: int) -> Direct | None:
        """A model's states as bytes; None where layers or codecs have no compiled form.

        Args:
            backbone: The model, trained.
            whole_bytes: A state up to that size is not divided.
        """
        if self.chain.byte_codecs or self.manifest.model != backbone.fingerprint():
            return None
        layout = Layout(
            self.manifest,
            lambda name: self.chain.coded(name, Coded("plain", (name,))),
            self.chain.stays(),
            self.grows,
            whole_bytes,
        )
        return backbone.direct(layout)

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


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)

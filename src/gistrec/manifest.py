"""What all states of one model and recipe have in common, so that no blob has to say it.

It is stored once, beside the model; its id stands in every blob.
"""

import dataclasses
import hashlib
import json
from functools import cached_property
from typing import Any

import msgspec
import torch

from gistrec.errors import CorruptStateError, StateError

ID_BYTES = 4
RAW = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8")
CODED = ("int16", "int32", "int64")
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (*RAW, *CODED)}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """What all states of a manifest have in common in one tensor."""

    name: str
    dtype: str
    """As in torch: `float32`, `bfloat16`, `int8`, ..."""
    shape: tuple[int, ...]
    """-1 where it differs from user to user."""

    @cached_property
    def in_tail(self) -> bool:
        """Whether it is of the events that wait in the tail."""
        return self.name.startswith("tail.")

    @cached_property
    def part(self) -> str:
        """What tensors of one size have in common: `scale` of `k.0.scale`, `tail` of all tails."""
        return "tail" if self.in_tail else self.name.rpartition(".")[2]

    @cached_property
    def varying(self) -> tuple[int, ...]:
        """Axes whose size differs from user to user."""
        return tuple(axis for axis, size in enumerate(self.shape) if size < 0)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise StateError(
                f"{self.name!r} is of dtype {self.dtype}, which can't be stored: allowed: "
                f"{', '.join(DTYPES)}"
            )


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What the states of one model and recipe have in common; stored once beside the model."""

    model: str
    """Fingerprint of the model."""
    codec: str
    """Spec of the chain of codecs."""
    tables: str
    """Digest of the fitted tables, empty if there are none."""
    tensors: tuple[TensorSpec, ...]
    """In the order in which they are stored."""

    @cached_property
    def id(self) -> int:
        """32 bits that stand in every blob: the first 4 bytes of the JSON's SHA-256."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:ID_BYTES], "little")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_json(cls, plain: Any) -> "Manifest":
        """The inverse of `to_json`.

        Raises:
            CorruptStateError: not a manifest.
        """
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise CorruptStateError(f"not a manifest: {error}; save the recipe again") from None

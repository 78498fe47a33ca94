"""States to bytes and back; the frame of all that is stored. Specified in docs/state-format.md.

Shapes: M slots, T tail events.

A blob holds what differs between users. What all states of a model share (names, dtypes, fixed
dimensions) stands once, in the `Manifest`, and a blob names it by number. Every blob begins with
the format version and ends with a CRC-32 of all before it.

Cost: 11 or 12 bytes beside a state's payload.
"""

import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gistrec import integers
from gistrec.errors import (
    CorruptStateError,
    DataError,
    FormatVersionError,
    StaleStateError,
    StateError,
)
from gistrec.integers import Reader
from gistrec.manifest import CODED, DTYPES, ID_BYTES, RAW, Manifest, TensorSpec
from gistrec.state import UserState

FORMAT_VERSION = 1
MAX_USER_BYTES = 256
"""The longest user id, in UTF-8; leaves room in a key for prefix and block number."""

_CRC_BYTES = 4


def manifest_of(
    encoded: Sequence[UserState], *, model: str, codec: str, tables: Mapping[str, Tensor]
) -> Manifest:
    """The manifest of some encoded states: a dimension in which they differ is a varying one.

    Args:
        encoded: States of different lengths, very short ones among them.
        model: Fingerprint of the model that writes them.
        codec: Spec of the chain that encoded them.
        tables: The chain's fitted tables.

    Raises:
        StateError: the states do not have the same tensors, a dtype can't be stored, or all states
            have one length.
    """
    if len({state.length for state in encoded}) < 2:
        raise StateError(
            f"{len(encoded)} sample states of one length do not show which dimensions vary: give "
            "states of different lengths, very short ones among them"
        )
    first = encoded[0].tensors
    for state in encoded:
        if odd := state.tensors.keys() ^ first.keys():
            raise StateError(
                f"only some of the sample states have {sorted(odd)}: all states of a recipe must "
                "have the same tensors"
            )
    specs = []
    # floats first: the integers' decoder then has little to look through, and alike bytes are
    # neighbours for a byte codec. The tail comes last, as it refers to what stands before it.
    for name in sorted(first, key=lambda n: (n.startswith("tail."), _name(first[n]) in CODED, n)):
        found = [state.tensors[name] for state in encoded]
        kinds = {(_name(tensor), tensor.ndim) for tensor in found}
        if len(kinds) > 1:
            raise StateError(
                f"{name!r} has several dtypes or numbers of dimensions in the sample states, "
                f"{sorted(kinds)}: all states of a recipe must have the same"
            )
        sizes = zip(*(tensor.shape for tensor in found), strict=True)
        shape = tuple(size[0] if len(set(size)) == 1 else -1 for size in sizes)
        specs.append(TensorSpec(name, _name(first[name]), shape))
    return Manifest(model, codec, digest(tables), tuple(specs))


def pack(
    state: UserState, manifest: Manifest, *, compress: Callable[[bytes], bytes] | None = None
) -> bytes:
    """One state as bytes.

    Args:
        state: An encoded state.
        manifest: What the states of this model and recipe have in common.
        compress: Applied to the payload (not to the header).

    Raises:
        StateError: the state does not have the manifest's tensors.
    """
    data = payload(state, manifest)
    return frame(_header(state, manifest) + (compress(data) if compress else data))


def unpack(
    blob: bytes, manifest: Manifest, *, expand: Callable[[bytes], bytes] | None = None
) -> UserState:
    """The state of some bytes; the inverse of `pack`.

    Raises:
        FormatVersionError: written in another format version.
        CorruptStateError: damaged or cut off.
        StaleStateError: written by another model or recipe.
    """
    reader = _opened(blob, manifest)
    length = reader.varint()
    shapes = _read_shapes(reader, manifest, length)
    data = reader.take(reader.left)
    reader = Reader(expand(data) if expand else data)
    tensors: dict[str, Tensor] = {}
    for spec in manifest.tensors:
        tensors[spec.name] = _read_tensor(reader, spec, shapes[spec.name], tensors)
    reader.finish()
    return UserState(tensors, length, manifest.model)


def covered(blob: bytes, manifest: Manifest) -> int:
    """How many events the state of some bytes covers; only its header is decoded.

    Raises:
        What `unpack` does.
    """
    return _opened(blob, manifest).varint()


def payload(state: UserState, manifest: Manifest) -> bytes:
    """The tensors' bytes, before any byte codec.

    Raises:
        StateError: the state does not have the manifest's tensors.
    """
    return b"".join(_parts(state, manifest).values())


def split_bytes(state: UserState, manifest: Manifest) -> dict[str, int]:
    """How a state's bytes divide, before any byte codec.

    Returns:
        Bytes of `floats` (quantised ones included), `indices` (item ids and codes), `scales` (of
        quantised tensors), `positions` (times and places in the history), `tail` and `header`.
        They add up to the length of the packed state.
    """
    parts = _parts(state, manifest)
    out = dict.fromkeys(("floats", "indices", "scales", "positions", "tail", "header"), 0)
    floating = {spec.name: DTYPES[spec.dtype].is_floating_point for spec in manifest.tensors}
    scaled = {_stem(name) for name in floating if name.endswith(".scale")}
    for spec in manifest.tensors:
        if spec.in_tail:
            kind = "tail"
        elif spec.name in ("time", "pos"):
            kind = "positions"
        elif spec.name.endswith((".scale", ".zero")):
            kind = "scales"
        elif _stem(spec.name) in scaled:  # k.0.q beside k.0.scale
            kind = "floats"
        else:
            kind = "floats" if floating[spec.name] else "indices"
        out[kind] += len(parts[spec.name])
    out["header"] = len(_header(state, manifest)) + 1 + _CRC_BYTES
    return out


def digest(tables: Mapping[str, Tensor]) -> str:
    """Of fitted tables: 64 bits of names, dtypes, shapes and values; empty if there are none."""
    if not tables:
        return ""
    sha = hashlib.sha256()
    for name, tensor in sorted(tables.items()):
        sha.update(f"{name} {_name(tensor)} {tuple(tensor.shape)}\n".encode())
        sha.update(_raw(tensor))
    return sha.hexdigest()[:16]


def frame(body: bytes) -> bytes:
    """The format version, the body, and a CRC-32 of both."""
    framed = bytes([FORMAT_VERSION]) + body
    return framed + zlib.crc32(framed).to_bytes(_CRC_BYTES, "little")


def unframe(blob: bytes, what: str, remedy: str) -> Reader:
    """A reader of the body; the inverse of `frame`.

    Raises:
        FormatVersionError: written in another format version.
        CorruptStateError: damaged or cut off.
    """
    if blob and blob[0] != FORMAT_VERSION:
        raise FormatVersionError(
            f"the {what} has format version {blob[0]}, this gistrec reads version "
            f"{FORMAT_VERSION}: use the gistrec that wrote it, or {remedy}"
        )
    framed, crc = blob[:-_CRC_BYTES], blob[-_CRC_BYTES:]
    if not framed or zlib.crc32(framed) != int.from_bytes(crc, "little"):
        raise CorruptStateError(
            f"the {what} ({len(blob)} bytes) has a wrong checksum: it is damaged or cut off; "
            f"{remedy}"
        )
    return Reader(framed[1:])


def check_user_id(user_id: str) -> str:
    """The same id, if it can be part of a key.

    Raises:
        DataError: it is empty, too long, or not valid text.
    """
    try:
        size = len(user_id.encode())
    except UnicodeEncodeError:
        raise DataError(f"user id {user_id!r} has half a surrogate pair: give valid text") from None
    if not 0 < size <= MAX_USER_BYTES:
        raise DataError(
            f"user id {user_id[:40]!r} has {size} bytes, allowed are 1 to {MAX_USER_BYTES}: "
            "give a shorter id, or a hash of it"
        )
    return user_id


def _opened(blob: bytes, manifest: Manifest) -> Reader:
    """A reader of what follows the manifest's id."""
    reader = unframe(blob, "state", "rebuild it from the history log")
    found = int.from_bytes(reader.take(ID_BYTES), "little")
    if found != manifest.id:
        raise StaleStateError(
            f"the state was written under manifest {found:08x}, this recipe's is "
            f"{manifest.id:08x}: it comes from another model or codec; rebuild it from the log"
        )
    return reader


def _check(state: UserState, manifest: Manifest) -> None:
    if state.model != manifest.model:
        raise StaleStateError(
            f"the state is of model {state.model!r}, the manifest of {manifest.model!r}: rebuild "
            "the state with this model"
        )
    given = {n: f"{n} {_name(t)} {tuple(t.shape)}" for n, t in state.tensors.items()}
    for spec in manifest.tensors:
        tensor = state.tensors.get(spec.name)
        if (
            tensor is None
            or _name(tensor) != spec.dtype
            or tensor.ndim != len(spec.shape)
            or any(f not in (-1, size) for f, size in zip(spec.shape, tensor.shape, strict=True))
        ):
            raise StateError(
                f"the manifest has {spec.name} {spec.dtype} {spec.shape} (-1: any size), the "
                f"state {given.get(spec.name, 'has no such tensor')}: fit the recipe on samples "
                "that include such states"
            )
    if len(given) > len(manifest.tensors):
        extra = sorted(given.keys() - {spec.name for spec in manifest.tensors})
        raise StateError(
            f"the state has {extra}, which the manifest does not know: fit the recipe on samples "
            "that include such states"
        )


def _header(state: UserState, manifest: Manifest) -> bytes:
    """All before the payload but the format version."""
    sizes: list[int] = []

    def note(name: str, axis: int, guess: int) -> int:
        size = state.tensors[name].shape[axis]
        sizes.append(0 if size == guess else 1 + size)
        return size

    _shapes(manifest, state.length, note)
    head = manifest.id.to_bytes(ID_BYTES, "little") + integers.varint(state.length)
    if not sizes:
        return head
    while sizes and not sizes[-1]:
        sizes.pop()
    return head + b"".join(map(integers.varint, (len(sizes), *sizes)))


def _read_shapes(reader: Reader, manifest: Manifest, length: int) -> dict[str, tuple[int, ...]]:
    varying = sum(len(spec.varying) for spec in manifest.tensors)
    given = reader.varint() if varying else 0
    if given > varying:
        raise CorruptStateError(f"{given} sizes given, {varying} vary: the bytes are damaged")
    sizes = iter([reader.varint() for _ in range(given)])

    def tell(name: str, axis: int, guess: int) -> int:
        size = next(sizes, 0)  # sizes guessed right are left out at the end
        return size - 1 if size else guess

    return _shapes(manifest, length, tell)


def _shapes(
    manifest: Manifest, length: int, size_of: Callable[[str, int, int], int]
) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes; `size_of(name, axis, guess)` knows the varying sizes.

    The guess is the size of a tensor before with the same last part in its name (`k.0.scale` for
    `k.1.scale`), else the first varying size, which is guessed to be all events but the tail's. A
    tail is guessed to be as long as the tail before, the first one to hold one event.
    """
    shapes = {}
    tail = min(1, length) if any(spec.in_tail for spec in manifest.tensors) else 0
    known: dict[tuple[str, int], int] = {}
    slots = None
    for spec in manifest.tensors:
        shape = list(spec.shape)
        for axis in spec.varying:
            guess = length - tail if slots is None else slots
            guess = known.get((spec.part, axis), tail if spec.in_tail else guess)
            shape[axis] = known[spec.part, axis] = size_of(spec.name, axis, guess)
            slots = shape[axis] if slots is None else slots
        shapes[spec.name] = tuple(shape)
    return shapes


def _parts(state: UserState, manifest: Manifest) -> dict[str, bytes]:
    """Every tensor's bytes, in the order in which they are stored."""
    _check(state, manifest)
    return {spec.name: _tensor_bytes(spec, state.tensors) for spec in manifest.tensors}


def _tensor_bytes(spec: TensorSpec, tensors: Mapping[str, Tensor]) -> bytes:
    tensor = tensors[spec.name]
    if spec.dtype in RAW:
        return _raw(tensor)
    values = tensor.numpy(force=True).reshape(-1).astype(np.int64)
    if spec.in_tail:
        return integers.varints(np.diff(values, prepend=_before_tail(spec, tensors)))
    return integers.encode(values)


def _read_tensor(
    reader: Reader, spec: TensorSpec, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> Tensor:
    dtype, count = DTYPES[spec.dtype], math.prod(shape)
    if spec.dtype in RAW:
        if not count:
            return torch.empty(shape, dtype=dtype)
        data = bytearray(reader.take(count * dtype.itemsize))
        return torch.frombuffer(data, dtype=dtype).reshape(shape)
    if spec.in_tail:
        values = np.cumsum(reader.varints(count)) + _before_tail(spec, tensors)
    else:
        values = reader.ints(count)
    return torch.from_numpy(values).to(dtype).reshape(shape)


def _raw(tensor: Tensor) -> bytes:
    if not tensor.numel():
        return b""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _before_tail(spec: TensorSpec, tensors: Mapping[str, Tensor]) -> int:
    """The last entry of the slots that a tail follows: `time` for `tail.time`; 0 without slots."""
    slots = tensors.get(spec.name.removeprefix("tail."))
    return int(slots[-1]) if slots is not None and slots.ndim == 1 and slots.numel() else 0


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _stem(name: str) -> str:
    """The tensor that a part belongs to, `k.0` for `k.0.scale`; empty if it is no part."""
    stem = name.rpartition(".")[0]
    return stem if "." in stem else ""

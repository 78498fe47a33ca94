"""Entropy coding of the packed bytes with frequencies that were learned on other users' states.

    compress(data) = varint(length), one ANS number        or        0, data
    cost of byte b at place i = -log2 p(b | class of i's block, i mod period)

A block is 64 bytes. Classes are a k-means of sample blocks by code length; each block is coded with
the class that makes it shortest, and the classes' numbers are coded before the bytes, with learned
frequencies too. So numbers, scales and integers find their own frequencies wherever they lie, and
the period (1, 2, 4 or 8, chosen on samples set aside) tells high bytes from low ones, and levels of
codes.

Shapes: C classes, P period, N bytes, B blocks.

Level: precision
Source: Duda 2013, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding
with compression rate of arithmetic coding", arXiv 1311.2540, section 2 (as range variant, rANS);
coder: the library constriction (Bamler 2022, arXiv 2201.01741). The model is our own.
Differs: frequencies are whole numbers that the coder takes as they are, so that bytes mean the same
on every machine; bytes of the same class and place in the period are coded together; the number
starts from the first 3 bytes instead of from nothing (1 to 2 bytes saved), and leaves out zero
bytes at its end.
Cost: at most 1 byte more than the data; 0.3 ms for 1 KB. Shared: 512 bytes for each of C * P + 1
tables. On packed states it leaves 95 to 99 % of `rvq` codes, 91 % of `int8`, 84 % of 4-bit numbers
and 68 % of `bf16`. What binds a slot's codes in different layers stays unused: they lie as many
bytes apart as there are slots, which the bytes alone do not tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from constriction import stream
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import ByteCodec
from gistrec.errors import CodecError, CorruptStateError
from gistrec.integers import Reader, varint

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Counts = NDArray[np.float32]  # whole numbers below 2^24, exact; products of them are fast

BLOCK = 64
PERIODS = (1, 2, 4, 8)
TOTAL = 21845
"""Sum of a table's frequencies. The coder makes 768 * f + 1 of each, of 2^24 = 768 * TOTAL + 256 in
all: without a rounding."""
SEED_BYTES = 3
"""The first bytes of the data, which the number starts with, as they are."""
LARGEST = 1 << 22
"""Bytes; longer data stays as it is, so that a forged length can't ask for much memory."""
SAMPLE_BLOCKS = 4096
ROUNDS = 8


@dataclass(frozen=True)
class ANS(ByteCodec):
    """Takes what is left where bytes are not equally frequent; put it behind a precision codec."""

    classes: int = 8
    """Sets of frequencies that a block can choose from, 1 to 64."""
    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`frequencies`, int16, (1 + C * P, 256), each row with the sum TOTAL; row 0 is of classes."""

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= 64:
            raise CodecError(f"{self}: classes must be 1 to 64")

    def fit_bytes(self, blobs: Sequence[bytes]) -> Self:
        """Learn the classes and the period.

        Raises:
            CodecError: too few or too small samples.
        """
        rng = np.random.default_rng(0)
        starts = ((blob, at) for blob in blobs for at in range(SEED_BYTES, len(blob), BLOCK))
        blocks = [blob[at : at + BLOCK] for blob, at in starts]
        if len(blocks) < 2:
            raise CodecError(
                f"{self} can't learn from {len(blobs)} samples of {sum(map(len, blobs))} bytes in "
                "all: give more, of users with some history"
            )
        blocks = [blocks[n] for n in rng.permutation(len(blocks))[:SAMPLE_BLOCKS]]
        aside = -(-len(blocks) // 4)
        costs = []
        for period in PERIODS:
            counts_BPV = _counts(blocks, period)
            model = _cluster(counts_BPV[aside:], self.classes)
            costs.append(_costs(counts_BPV[:aside], model).min(1).sum())
        model = _cluster(_counts(blocks, PERIODS[int(np.argmin(costs))]), self.classes)
        return replace(self, tables={"frequencies": torch.from_numpy(model.astype(np.int16))})

    @cached_property
    def _frequencies(self) -> Ints:
        table: Ints = self.table("frequencies").numpy().astype(np.int64)
        return table

    @cached_property
    def _models(self) -> list[Any]:
        return [
            stream.model.Categorical(row.astype(np.float32), perfect=False)
            for row in self._frequencies
        ]

    def _groups(self, class_B: Ints, length: int) -> list[tuple[int, Ints]]:
        """Each table that is in use, and the places of its bytes."""
        period = (len(self._frequencies) - 1) // self.classes
        place_N = np.arange(length)
        row_N = 1 + class_B[place_N // BLOCK] * period + place_N % period
        order_N = np.argsort(row_N, kind="stable")
        rows, starts = np.unique(row_N[order_N], return_index=True)
        return list(zip(rows.tolist(), np.split(order_N, starts[1:]), strict=True))

    def compress(self, data: bytes) -> bytes:
        """The length, then the classes and bytes as one number; or 0, then the data."""
        period = (len(self._frequencies) - 1) // self.classes
        if not SEED_BYTES < len(data) <= LARGEST:
            return b"\0" + data
        body = data[SEED_BYTES:]
        blocks = [body[at : at + BLOCK] for at in range(0, len(body), BLOCK)]
        class_B = _costs(_counts(blocks, period), self._frequencies).argmin(1)
        byte_N = np.frombuffer(body, np.uint8).astype(np.int32)
        # a number that starts at nothing would spend 3 bytes on its first byte; so start at some
        coder = stream.stack.AnsCoder(np.frombuffer(data[:SEED_BYTES] + b"\1", "<u4").astype("u4"))
        for row, places in reversed(self._groups(class_B, len(body))):  # last in, first out
            coder.encode_reverse(byte_N[places], self._models[row])
        coder.encode_reverse(class_B.astype(np.int32), self._models[0])
        number = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
        coded = varint(len(data)) + number
        return coded if len(coded) <= len(data) else b"\0" + data

    def expand(self, data: bytes) -> bytes:
        """The data that `compress` was given."""
        if data[:1] == b"\0":
            return data[1:]
        reader = Reader(data)
        length = reader.varint() - SEED_BYTES
        head = data[: reader.at]
        number = reader.take(reader.left)
        is_shortest = head == varint(length + SEED_BYTES) and not number.endswith(b"\0")
        if not (0 < length <= LARGEST and is_shortest):
            raise self._corrupt(data)
        number += bytes(-len(number) % 4)
        coder = stream.stack.AnsCoder(np.frombuffer(number, "<u4").astype("u4"))
        class_B = coder.decode(self._models[0], -(-length // BLOCK)).astype(np.int64)
        if class_B.max() >= self.classes:
            raise self._corrupt(data)
        byte_N = np.empty(length, np.uint8)
        for row, places in self._groups(class_B, length):
            byte_N[places] = coder.decode(self._models[row], len(places))
        seed: bytes = coder.get_compressed().astype("<u4").tobytes()
        if len(seed) != 4 or seed[SEED_BYTES:] != b"\1":
            raise self._corrupt(data)
        return seed[:SEED_BYTES] + byte_N.tobytes()

    def _corrupt(self, data: bytes) -> CorruptStateError:
        return CorruptStateError(
            f"{self} did not make these {len(data)} bytes: they are damaged or come from another "
            "model; rebuild the state from the log"
        )


def _counts(blocks: Sequence[bytes], period: int) -> Counts:
    """How often each byte stands at each place of the period, (B, P, 256)."""
    length_B = np.array([len(block) for block in blocks], np.int64)
    byte_N = np.frombuffer(b"".join(blocks), np.uint8)
    block_N = np.repeat(np.arange(len(blocks)), length_B)
    place_N = np.arange(len(byte_N)) - np.repeat(np.cumsum(length_B) - length_B, length_B)
    index_N = (block_N * period + place_N % period) * 256 + byte_N
    counts = np.bincount(index_N, minlength=len(blocks) * period * 256)
    return counts.reshape(len(blocks), period, 256).astype(np.float32)


def _costs(counts_BPV: Counts, frequencies: Ints) -> Counts:
    """Code length of each block with each class, its number included, (B, C), in 1/1024 bits."""
    # whole numbers, so that sums and choices do not depend on the order of summation
    bits = np.rint(1024 * np.log2(TOTAL / frequencies)).astype(np.float32)
    per_class = bits[1:].reshape(-1, counts_BPV[0].size)
    costs_BC: Counts = counts_BPV.reshape(len(counts_BPV), -1) @ per_class.T
    costs_BC += bits[0, : len(per_class)]
    return costs_BC


def _smooth(counts: Floats, towards: Floats, weight: float) -> Floats:
    smooth: Floats = (counts + weight * towards) / (counts.sum(-1, keepdims=True) + weight)
    return smooth


def _cluster(counts_BPV: Counts, classes: int) -> Ints:
    """Frequencies of the classes and of their bytes, (1 + C * P, 256)."""
    all_V = _smooth(counts_BPV.sum((0, 1)), np.full(256, 1 / 256), 32)
    class_B = np.arange(len(counts_BPV)) % classes
    for n in range(ROUNDS):
        # first from a single block each, then from all that chose the class
        chosen_BC = class_B[:, None] == np.arange(classes)
        if n == 0:
            chosen_BC[classes:] = False
        counts_CPV = np.tensordot(chosen_BC.T.astype(np.float32), counts_BPV, 1)
        class_CV = _smooth(counts_CPV.sum(1), all_V, 16)
        byte_CPV = _smooth(counts_CPV, class_CV[:, None], 16)
        number_V = np.zeros(256)
        number_V[:classes] = _smooth(chosen_BC.sum(0).astype(np.float64), np.ones(classes), 1)
        rows = np.concatenate([number_V[None], byte_CPV.reshape(-1, 256)])
        frequencies = 1 + np.floor(rows / rows.sum(1, keepdims=True) * (TOTAL - 256))
        frequencies[np.arange(len(rows)), rows.argmax(1)] += TOTAL - frequencies.sum(1)
        model: Ints = frequencies.astype(np.int64)
        class_B = _costs(counts_BPV, model).argmin(1)
    return model

"""Lossless coding of integers: variable-length scalars, and arrays in as few bytes as they need.

An array is coded as one method byte and a body. The method says what is subtracted and in how many
bits the rest, the residuals, are written; the encoder keeps the shortest of the ways that may pay.
Arithmetic is modulo 2**64 throughout, so every int64 array comes back exactly. The layout is in
docs/state-format.md.

Source: varints as in Protocol Buffers; frame of reference: Goldstein, Ramakrishnan, Shaft 1998.
Cost: in runs of 64, a timestamp of ml-1m takes 0.9 bytes, of a log by day (food) 1.1, of baskets
(completejourney) 0.6.
"""

import numpy as np
from numpy.typing import NDArray

from gistrec.errors import CorruptStateError
from gistrec.kernels import integers as kernel

Ints = NDArray[np.int64]
Residuals = NDArray[np.uint64]

STEPS = 0x80
"""Method bit: residuals are of the differences, not of the values."""
CHUNKS = 64
"""Coder number above which residuals are cut into chunks of `coder - CHUNKS` bits."""
RUNS = 126
"""Method of values that repeat: the values that differ, and how often each one stands."""
UNIT = 127
"""Method of values with a common divisor (days written as seconds)."""

_MAX_CHUNK = 8
_MAX_LENGTH = 1 << 26  # what a forged length may make us allocate: 512 MB

# Bits that a residual of b significant bits takes in chunks of g bits: [b, g - 1].
_CHUNK_COST = -(-np.maximum(np.arange(65), 1)[:, None] // np.arange(1, _MAX_CHUNK + 1)) * np.arange(
    2, _MAX_CHUNK + 2
)


def zigzag(value: int) -> int:
    """Signed to unsigned, small to small: 0, -1, 1, -2 -> 0, 1, 2, 3."""
    return value << 1 if value >= 0 else ~(value << 1)


def varint(value: int) -> bytes:
    """Seven bits a byte, low ones first; the high bit says that more follow.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def varints(values: Ints) -> bytes:
    """The same for an array of signed values, each zigzagged."""
    if len(values) and (found := kernel.encode(values, varints=True)) is not None:
        return found
    return _put_chunks(_zigzag(values), 7)


def encode(values: Ints) -> bytes:
    """The shortest coding of an array, method byte included; nothing for an empty one."""
    if not len(values):
        return b""
    if (found := kernel.encode(values)) is not None:
        return found
    coded = [_encode_runs(values)]
    low = int(values.min())
    if (spread := int(values.max()) - low) < 1 << 62:
        unit = int(np.gcd.reduce(values - low))
        if 1 < unit < spread:
            head = bytes([UNIT]) + varint(unit) + varint(low % unit)
            coded.append(head + _encode_runs(values // unit))
    return min(coded, key=len)


class Reader:
    """A place in a byte string; reads what this module writes.

    Every method raises CorruptStateError when the bytes end early or make no sense.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise CorruptStateError(
                f"{count} bytes expected, {self.left} left: the bytes are damaged"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def finish(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise CorruptStateError(f"{self.left} bytes too many: the bytes are damaged")

    def varint(self) -> int:
        """One unsigned scalar."""
        value = shift = 0
        for byte in self.data[self.at : self.at + 10]:
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        else:
            if shift < 70:
                self.take(1)  # there is none: the bytes end early
            value = 1 << 64
        if value < 1 << 64:
            return value
        raise CorruptStateError("a number has more than 64 bits: the bytes are damaged")

    def signed(self) -> int:
        """One zigzagged scalar."""
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def varints(self, count: int) -> Ints:
        """`count` zigzagged values."""
        if count > self.left:  # each takes a byte; a forged number must not allocate more
            raise CorruptStateError(
                f"{count} numbers expected in {self.left} bytes: the bytes are damaged"
            )
        if count and (found := kernel.decode(self.data, self.at, count, varints=True)):
            self.at += found[1]
            return found[0]
        return _unzigzag(self._chunks(count, 7))

    def ints(self, count: int) -> Ints:
        """`count` values as coded by `encode`."""
        if count == 0:
            return np.zeros(0, np.int64)
        if count > _MAX_LENGTH:
            raise CorruptStateError(
                f"an array of {count} values is not credible: the bytes are damaged"
            )
        if found := kernel.decode(self.data, self.at, count):
            self.at += found[1]
            return found[0]
        if self._next_is(UNIT):
            unit, rest = self.varint(), self.varint()
            scaled = self._runs(count).view(np.uint64) * np.uint64(unit) + np.uint64(rest)
            return scaled.view(np.int64)
        return self._runs(count)

    def _next_is(self, method: int) -> bool:
        if self.left and self.data[self.at] == method:
            self.at += 1
            return True
        return False

    def _runs(self, count: int) -> Ints:
        if not self._next_is(RUNS):
            return self._simple(count)
        distinct = self.varint()
        if not 0 < distinct <= count:
            raise CorruptStateError(f"{distinct} runs of {count} values: the bytes are damaged")
        value, repeats = self._simple(distinct), self._simple(distinct)
        if repeats.min() < 1 or repeats.max() > count or repeats.sum() != count:
            raise CorruptStateError(f"runs do not add up to {count} values: the bytes are damaged")
        return np.repeat(value, repeats)

    def _simple(self, count: int) -> Ints:
        method = self.take(1)[0]
        coder, base = method & 127, np.array([self.signed()], np.int64).view(np.uint64)
        if not method & STEPS:
            return (base + self._residuals(count, coder)).view(np.int64)
        step = self.signed()
        residual = self._residuals(count - 1, coder)
        step_n = _unzigzag(residual).view(np.uint64) if step < 0 else residual + np.uint64(step)
        return np.cumsum(np.concatenate([base, step_n]), dtype=np.uint64).view(np.int64)

    def _residuals(self, count: int, coder: int) -> Residuals:
        if coder <= CHUNKS:
            return _unpack_bits(self.take(_bytes_for(count * coder)), count, coder)
        if coder > CHUNKS + _MAX_CHUNK:
            raise CorruptStateError(f"unknown integer coding {coder}: the bytes are damaged")
        return self._chunks(count, coder - CHUNKS)

    def _chunks(self, count: int, bits: int) -> Residuals:
        """Residuals whose last chunk has a zero above its `bits` bits."""
        if count == 0:
            return np.zeros(0, np.uint64)
        longest = count * -(-64 // bits)
        have = min(longest, self.left * 8 // (bits + 1))
        window = self.data[self.at : self.at + _bytes_for(have * (bits + 1))]
        chunk = _unpack_bits(window, have, bits + 1)
        ends = np.flatnonzero(chunk >> np.uint64(bits) == 0)[:count]
        if len(ends) < count:
            raise CorruptStateError(f"{count} numbers expected, {len(ends)} found: damaged bytes")
        starts = np.concatenate([[0], ends[:-1] + 1])
        place = np.arange(ends[-1] + 1) - np.repeat(starts, ends - starts + 1)
        if int(place.max()) * bits > 63:
            raise CorruptStateError("a number has more than 64 bits: the bytes are damaged")
        part = chunk[: ends[-1] + 1] & np.uint64((1 << bits) - 1)
        self.take(_bytes_for((int(ends[-1]) + 1) * (bits + 1)))
        return np.add.reduceat(part << (place * bits).astype(np.uint64), starts)


def _zigzag(values: Ints) -> Residuals:
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def _unzigzag(residual: Residuals) -> Ints:
    return ((residual >> np.uint64(1)) ^ (~(residual & np.uint64(1)) + np.uint64(1))).view(np.int64)


def _encode_runs(values: Ints) -> bytes:
    simple = _encode_simple(values)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    if not 1 < len(starts) <= len(values) // 2:
        return simple
    repeats = np.diff(starts, append=len(values))
    head = bytes([RUNS]) + varint(len(starts))
    return min(simple, head + _encode_simple(values[starts]) + _encode_simple(repeats), key=len)


def _encode_simple(values: Ints) -> bytes:
    """Values above the least one, or differences above the least one, whichever is shorter."""
    low = int(values.min())
    above = _Plan((values - low).view(np.uint64), varint(zigzag(low)), 0)
    difference = np.diff(values)
    step = int(difference.min()) if len(difference) else 0
    if step >= 0:
        residual = (difference - step).view(np.uint64)
    else:
        step, residual = -1, _zigzag(difference)
    head = varint(zigzag(int(values[0]))) + varint(zigzag(step))
    return min(above, _Plan(residual, head, STEPS), key=lambda plan: plan.nbytes).write()


class _Plan:
    """How residuals would be coded: chosen by size before a byte is written."""

    def __init__(self, residual: Residuals, head: bytes, flag: int) -> None:
        self.residual, self.head, self.flag = residual, head, flag
        bits = _bit_lengths(residual)
        self.coder = int(bits.max(initial=0))
        size = _bytes_for(self.coder * len(residual))
        if self.coder > 1:
            chunked = np.bincount(bits, minlength=65) @ _CHUNK_COST
            best = int(chunked.argmin())
            if _bytes_for(int(chunked[best])) < size:
                self.coder, size = CHUNKS + 1 + best, _bytes_for(int(chunked[best]))
        self.nbytes = len(head) + size

    def write(self) -> bytes:
        if self.coder > CHUNKS:
            body = _put_chunks(self.residual, self.coder - CHUNKS)
        else:
            body = _pack_bits(self.residual, self.coder)
        return bytes([self.coder | self.flag]) + self.head + body


def _bytes_for(bits: int) -> int:
    return (bits + 7) // 8


def _bit_lengths(residual: Residuals) -> NDArray[np.int32]:
    # in halves, because float64 rounds numbers of more than 53 bits
    high, low = (np.frexp(half.astype(np.float64))[1] for half in (residual >> 32, residual))
    return np.where(residual >> 32 > 0, high + 32, low)


def _put_chunks(residual: Residuals, bits: int) -> bytes:
    count = np.maximum(-(-_bit_lengths(residual) // bits), 1)
    place = np.arange(count.max(initial=1))
    chunk = residual[:, None] >> (place * bits).astype(np.uint64) & np.uint64((1 << bits) - 1)
    chunk |= (place < count[:, None] - 1).astype(np.uint64) << np.uint64(bits)
    return _pack_bits(chunk[place < count[:, None]], bits + 1)


def _pack_bits(residual: Residuals, bits: int) -> bytes:
    if bits == 0:
        return b""
    octets = residual.astype("<u8").view(np.uint8).reshape(-1, 8)
    flags = np.unpackbits(octets[:, : _bytes_for(bits)], axis=1, count=bits, bitorder="little")
    return np.packbits(flags.ravel(), bitorder="little").tobytes()


def _unpack_bits(data: bytes, count: int, bits: int) -> Residuals:
    octets = np.zeros((count, 8), np.uint8)
    if bits and count:
        flags = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
        packed = np.packbits(flags.reshape(count, bits), axis=1, bitorder="little")
        octets[:, : packed.shape[1]] = packed
    return octets.view("<u8").ravel()

"""Zstandard on the packed bytes, with a dictionary of what users' states have in common.

    compress(data) = 1, zstd frame        or        0, data        whichever is shorter

Level: precision
Source: Collet, Kucherawy 2021, "Zstandard Compression and the 'application/zstd' Media Type",
RFC 8878.
Differs: the frame goes without its magic number, checksum and dictionary id (4 to 12 bytes saved; a
state's own header says what it is and checks it).
Cost: at most 1 byte more than the data; tens of microseconds. Shared: `dict_bytes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import torch
import zstandard
from torch import Tensor
from zstandard import FORMAT_ZSTD1_MAGICLESS, ZstdCompressionDict, ZstdCompressionParameters

from gistrec.codecs import ByteCodec
from gistrec.errors import CodecError, CorruptStateError

RAW, FRAME = b"\x00", b"\x01"
LARGEST = 1 << 30
"""Bytes; a frame that claims to hold more is refused before memory is asked for."""


@dataclass(frozen=True)
class Zstd(ByteCodec):
    """General-purpose compression; always the last part of a chain."""

    level: int = 3
    """Effort, 1 (fast) to 22 (small)."""
    dict_bytes: int = 0
    """Size of the shared dictionary; 0 for none. 256 and more help states of a few kilobytes."""
    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`dictionary`, uint8."""

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22 or (self.dict_bytes and self.dict_bytes < 256):
            raise CodecError(f"{self}: level must be 1 to 22, dict_bytes 0 or at least 256")

    def fit_bytes(self, blobs: Sequence[bytes]) -> Self:
        """Train the dictionary.

        Raises:
            CodecError: too few or too small samples.
        """
        if not self.dict_bytes:
            return self
        try:
            trained = zstandard.train_dictionary(self.dict_bytes, list(blobs)).as_bytes()
        except zstandard.ZstdError as error:
            raise CodecError(
                f"{self} can't train its dictionary on {len(blobs)} samples of "
                f"{sum(map(len, blobs))} bytes in all ({error}): give more, or dict_bytes=0"
            ) from None
        return replace(
            self, tables={"dictionary": torch.frombuffer(bytearray(trained), dtype=torch.uint8)}
        )

    @cached_property
    def _parameters(self) -> ZstdCompressionParameters:
        return ZstdCompressionParameters.from_level(
            self.level, format=FORMAT_ZSTD1_MAGICLESS, write_content_size=True, write_dict_id=False
        )

    @cached_property
    def _dictionary(self) -> ZstdCompressionDict | None:
        if not self.dict_bytes:
            return None
        dictionary = ZstdCompressionDict(self.table("dictionary").numpy().tobytes())
        dictionary.precompute_compress(compression_params=self._parameters)
        return dictionary

    def compress(self, data: bytes) -> bytes:
        """A flag, then a frame or the data."""
        # a compressor must not be shared by threads, and a new one costs little
        compressor = zstandard.ZstdCompressor(
            compression_params=self._parameters, dict_data=self._dictionary
        )
        frame = compressor.compress(data)
        return FRAME + frame if len(frame) < len(data) <= LARGEST else RAW + data

    def expand(self, data: bytes) -> bytes:
        """The data that `compress` was given."""
        flag, body = data[:1], data[1:]
        if flag == RAW:
            return body
        try:
            if flag != FRAME:
                raise zstandard.ZstdError(f"it starts with {flag!r}")
            size = zstandard.get_frame_parameters(body, FORMAT_ZSTD1_MAGICLESS).content_size
            if size > LARGEST:
                raise zstandard.ZstdError(f"it claims to hold {size} bytes, {LARGEST} are allowed")
            decompressor = zstandard.ZstdDecompressor(
                dict_data=self._dictionary, format=FORMAT_ZSTD1_MAGICLESS
            )
            return decompressor.decompress(body, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptStateError(
                f"{self} can't expand {len(data)} bytes: {error}; rebuild the state from the log"
            ) from None

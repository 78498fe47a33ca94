"""Codecs: post-hoc compression of a finished state. State in, smaller state out; they compose.

Shapes: M slots, H heads, K head width, L layers. One file per codec; a file's name is its spec
name. A codec is a frozen dataclass: its fields are its options, and `str(codec)` is its spec.

Write a new one by subclassing
    `Evict`      give `importance`; the base owns top-k, gathering, sinks, window and budget
    `EvictByAttention`  name the hint that counts attention
    `Quantize`   give `quantize` and `dequantize` of one tensor; the base walks the state
    `Learned`    a `Quantize` with tables fitted per tensor; give `learn` too
    `Codec`      give `encode` and `decode`
    `ByteCodec`  give `compress` and `expand` of packed bytes (always last in a chain)

Methods share `_bits` (exact arithmetic, packed codes), `_affine` (scales and zero points),
`_kmeans` (codebooks) and `_items` (tables of items' mean rows).

Laws (shipped as `gistrec.testing.codecs.CodecTests`): the input is untouched;
`encode(decode(encode(s))) == encode(s)` bit for bit, because a served state is re-encoded at every
append; appending a slot leaves the codes of the others; lengths 0 and 1; `parse(str(codec))` is
the codec.
"""

from gistrec import registry
from gistrec.codecs._chain import Chain, chain
from gistrec.codecs._codec import BYTES, PRECISION, SLOTS, WIDTH, ByteCodec, Codec, Measure
from gistrec.codecs._evict import Evict, EvictByAttention
from gistrec.codecs._quantize import (
    Learned,
    Quantize,
    check_finite,
    from_rows,
    is_row_tensor,
    row_samples,
    row_shape,
    rows_of,
)

__all__ = [
    "BYTES",
    "PRECISION",
    "SLOTS",
    "WIDTH",
    "ByteCodec",
    "Chain",
    "Codec",
    "Evict",
    "EvictByAttention",
    "Learned",
    "Measure",
    "Quantize",
    "chain",
    "check_finite",
    "from_rows",
    "is_row_tensor",
    "parse",
    "row_samples",
    "row_shape",
    "rows_of",
]

COMPONENT_BASES = (Codec, ByteCodec)


def parse(spec: str) -> Chain:
    """The chain of a spec string, for example `"recent(keep=256, sink=4) | int8() | zstd()"`.

    Raises:
        ConfigError: unknown name or option. CodecError: parts in an order that makes no sense.
    """
    return chain(registry.build("codecs", part) for part in registry.parse_spec(spec))

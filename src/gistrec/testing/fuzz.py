"""Parsers given damaged bytes: an error of gistrec's own or an answer, nothing else.

A case is one of a parser's samples, changed at random places. What has a checksum gets a right one,
so that the damage is met by the code behind it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gistrec import codecs, registry
from gistrec.errors import GistrecError
from gistrec.event_ids import EventIds
from gistrec.integers import Ints, Reader, encode, varints
from gistrec.log_blocks import Logged, LogHead, decode_block, encode_block
from gistrec.testing.data import sample_state
from gistrec.wire import frame, manifest_of, pack, unpack

_BYTES = bytes([0, 1, 2, 63, 64, 126, 127, 128, 129, 254, 255])
_WORDS = ("(", ")", "|", ",", "=", "'", "-", "[", "]", "1e999", "9" * 30, "None", "\0", "é", "keep")


class Parser(NamedTuple):
    """What is given damaged input."""

    parse: Callable[[bytes], object]
    samples: Sequence[bytes]
    text: bool = False
    """Its samples are text, and words of the grammar are put into them."""
    weight: int = 16
    """Its part of the cases."""


def _framed(parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    return lambda body: parse(frame(body))


def _bodies(blobs: Sequence[bytes]) -> list[bytes]:
    """Without the version in front and the checksum behind."""
    return [blob[1:-4] for blob in blobs]


def _histories() -> list[Logged]:
    rng = np.random.default_rng(0)
    found = []
    for count in (1, 5, 100):
        times: Ints = np.cumsum(rng.integers(0, 90_000, count))
        numbers = rng.integers(0, 5000, count)
        found.append(Logged(numbers, times, None))
        found.append(Logged(numbers, times, rng.integers(0, 5, count)))
        found.append(Logged(np.char.add("item-", numbers.astype(np.str_)), times, None))
    return found


def _spec(text: bytes) -> None:
    for part in registry.parse_spec(text.decode(errors="replace")):
        (again,) = registry.parse_spec(str(part))
        if again != part:
            raise AssertionError(f"{part} is read back as {again}")


def _codec(text: bytes) -> None:
    chain = codecs.parse(text.decode(errors="replace"))
    if str(codecs.parse(str(chain))) != str(chain):
        raise AssertionError(f"{chain} is read back as another chain")


def parsers() -> dict[str, Parser]:
    """By name."""
    states = [sample_state(length) for length in (0, 1, 2, 9, 40)]
    manifest = manifest_of(states, model=states[0].model, codec="identity()", tables={})
    histories = _histories()
    heads = [LogHead(h.item_id.dtype.kind == "U").append(h)[0].to_bytes() for h in histories]
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, high, 64) for high in (1, 2, 300, 2**40)]
    arrays += [np.sort(a) for a in arrays] + [np.repeat(a[:4], 16) for a in arrays]
    specs = [f"{name}()".encode() for name in registry.names("codecs")]
    specs += [b"recent(keep=256, sink=4) | kivi(bits=2, group=32) | zstd(level=3)"]
    specs += [b"parquet(path='log.parquet', user='uid')", b"x(a=-1.5e3, b=[1, 2], c=True, d=None)"]
    return {
        "spec": Parser(_spec, specs, text=True),
        "codec": Parser(_codec, specs, text=True, weight=1),  # its messages search
        "integers": Parser(lambda data: Reader(data).ints(64), [encode(a) for a in arrays]),
        "varints": Parser(lambda data: Reader(data).varints(64), [varints(a) for a in arrays]),
        "state": Parser(
            _framed(lambda blob: unpack(blob, manifest)),
            _bodies([pack(state, manifest) for state in states]),
        ),
        "head": Parser(
            _framed(lambda blob: LogHead.from_bytes(blob).tail()),
            _bodies(heads),
        ),
        "block": Parser(_framed(decode_block), _bodies([encode_block(h) for h in histories])),
        "event ids": Parser(
            _framed(lambda blob: EventIds.from_bytes(blob, "ids", "forget them")),
            _bodies([EventIds((b"12345678",) * n).to_bytes() for n in (0, 1, 64)]),
        ),
        "frame": Parser(decode_block, [encode_block(h) for h in histories]),
    }


def damaged(parser: Parser, rng: random.Random) -> bytes:
    """A sample with one to four changes."""
    data = bytearray(rng.choice(parser.samples))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(6)
        if way == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(data):
            data[at] = rng.choice(_BYTES)
        elif way == 2:
            del data[at : at + rng.choice((1, 2, 8, len(data)))]
        elif way == 3:
            new = rng.choice(_WORDS).encode() if parser.text else rng.randbytes(rng.randint(1, 9))
            data[at:at] = new
        elif way == 4:
            other = rng.choice(parser.samples)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            data[at:at] = data[at : at + rng.randint(1, 9)]
    return bytes(data)


class Found(NamedTuple):
    """What came of some cases."""

    cases: int
    refused: int
    """Answered with an error of gistrec's own."""
    crashes: list[str]
    """Parser, input and error of the others; at most ten."""


def cases(names: Sequence[str], seed: int) -> Iterator[tuple[str, Parser, bytes]]:
    """Without end."""
    every, rng = parsers(), random.Random(seed)
    turns = [name for name in names or every for _ in range(every[name].weight)]
    while True:
        for name in turns:
            yield name, every[name], damaged(every[name], rng)


def fuzz(count: int, *, seed: int = 0, names: Sequence[str] = ()) -> Found:
    """Give parsers damaged input, one after another.

    Args:
        count: How many cases, of all parsers together.
        seed: Of the damage.
        names: Of the parsers; none: all.
    """
    refused = 0
    crashes: list[str] = []
    for _, (name, parser, data) in zip(range(count), cases(names, seed), strict=False):
        try:
            parser.parse(data)
        except GistrecError:
            refused += 1
        except Exception as error:
            if len(crashes) < 10:
                crashes.append(f"{name} of {data!r}: {error!r}")
    return Found(count, refused, crashes)

import contextlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gistrec.errors import CorruptStateError
from gistrec.integers import Reader, encode, varint, varints, zigzag

INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-300, 300)


def decode(data: bytes, count: int) -> np.ndarray:
    reader = Reader(data)
    values = reader.ints(count)
    reader.finish()
    assert values.dtype == np.int64
    return values


def check(values) -> int:
    """Bytes of an array that comes back."""
    values = np.array(values, np.int64)
    data = encode(values)
    np.testing.assert_array_equal(decode(data, len(values)), values)
    return len(data)


@given(st.one_of(st.lists(INT64), st.lists(SMALL), st.lists(st.sampled_from([5, 6, 2**62]))))
def test_every_array_comes_back(values):
    check(values)


@given(arrays(np.int64, st.integers(0, 80), elements=SMALL), st.integers(1, 2**40), INT64)
def test_so_do_sums_runs_and_multiples(steps, unit, start):
    with np.errstate(over="ignore"):
        values = np.cumsum(steps) * unit + start
    check(values)
    check(np.repeat(values, 3))


@given(st.lists(INT64))
def test_varints_come_back_and_know_their_end(values):
    values = np.array(values, np.int64)
    reader = Reader(varints(values) + b"rest")
    np.testing.assert_array_equal(reader.varints(len(values)), values)
    assert reader.take(reader.left) == b"rest"


@given(INT64)
@example(2**55 - 2)
def test_scalars_are_varints_too(value):
    assert varint(zigzag(value)) == varints(np.array([value]))
    assert Reader(varint(zigzag(value))).signed() == value


def test_sizes():
    assert check([]) == 0
    assert check([7] * 1000) == 2
    assert check(np.arange(1000)) == 3  # consecutive positions
    assert check(np.arange(1000) % 8) == 2 + 1000 * 3 / 8
    seconds = 1_600_000_000
    assert check(seconds + np.arange(50)) == 7
    # 20 baskets of 10 items, about a week apart
    baskets = seconds + 600_000 * np.arange(20) + np.arange(20) ** 2
    assert check(np.repeat(baskets, 10)) <= 2 * 20 + 10
    # whole days
    days = np.cumsum(np.arange(100) % 7)
    assert check(seconds // 86400 * 86400 + days * 86400) <= 100 * 4 / 8 + 12
    # one far outlier does not make all others wide
    assert check([1] * 50 + [2**50] + [2] * 50) < 60
    # random ones are hardly longer than they are
    random = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 100)
    assert check(random) <= 100 * 8 + 12


def test_every_way_is_taken():
    """The smallest of several: each method wins somewhere, so none is dead weight."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, 3000, 200)
    time = np.cumsum(rng.geometric(0.001, 200))
    arrays = {
        "value, fixed width": item,
        "value, chunks": (rng.pareto(1.0, 200) * 10).astype(np.int64),
        "step, fixed width": np.cumsum(rng.integers(100, 164, 200)),
        "step, chunks": np.cumsum((rng.pareto(0.5, 200) * 10).astype(np.int64)),
        "runs": np.repeat(time[::10], 10),
        "unit": time * 86400,
    }
    firsts = {name: encode(values)[0] for name, values in arrays.items()}
    assert firsts["value, fixed width"] <= 64
    assert 64 < firsts["value, chunks"] <= 72
    assert 0x80 <= firsts["step, fixed width"] <= 0x80 + 64
    assert 0x80 + 64 < firsts["step, chunks"] <= 0x80 + 72
    assert firsts["runs"] == 126
    assert firsts["unit"] == 127


@given(st.lists(SMALL, min_size=1), st.data())
def test_cut_off_bytes_are_noticed(values, data):
    coded = encode(np.array(values))
    cut = data.draw(st.integers(0, len(coded) - 1))
    with pytest.raises(CorruptStateError):
        decode(coded[:cut], len(values))


@given(st.binary(max_size=60), st.integers(1, 40))
def test_any_bytes_decode_or_are_refused(data, count):
    for read in (Reader(data).ints, Reader(data).varints):
        with contextlib.suppress(CorruptStateError):
            assert len(read(count)) == count


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes([73, 0]), "unknown integer coding 73"),
        (b"\x00" + b"\xff" * 9 + b"\x02", "64 bits"),  # a base of 65 bits
        (b"\x00" + b"\x80" * 10, "64 bits"),
        (bytes([0x80 + 65, 0, 0]) + b"\xff" * 100, "numbers expected|64 bits"),
        (bytes([126, 0]), "0 runs"),
        (bytes([126, 2, 0, 10, 0, 4]), "add up"),  # two runs of 2 in an array of 3
        (bytes([126, 1, 0, 10, 0, 5]), "add up"),  # a run of -3
    ],
)
def test_damage_has_a_reason(data, why):
    with pytest.raises(CorruptStateError, match=why):
        decode(data, 3)


def test_a_forged_length_takes_no_memory():
    with pytest.raises(CorruptStateError, match="not credible"):
        Reader(b"\x00\x00").ints(1 << 40)


def test_bytes_too_many():
    with pytest.raises(CorruptStateError, match="1 bytes too many"):
        decode(encode(np.arange(4)) + b"\0", 4)


def test_a_forged_number_of_varints_allocates_nothing():
    with pytest.raises(CorruptStateError, match="numbers expected in 3 bytes"):
        Reader(b"\1\2\3").varints(1 << 50)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gistrec import integers, kernels
from gistrec.errors import CorruptStateError
from gistrec.integers import Reader
from gistrec.kernels import integers as kernel
from gistrec.kernels.integers import decode

pytestmark = pytest.mark.skipif(not kernels.native(), reason="nothing is compiled")

INT64 = st.integers(-(2**63), 2**63 - 1)
ARRAYS = st.one_of(
    arrays(np.int64, st.integers(1, 90), elements=INT64),
    arrays(np.int64, st.integers(1, 90), elements=st.integers(-300, 300)),
    arrays(np.int64, st.integers(1, 90), elements=st.sampled_from([5, 6, 2**62])),
)


def by_numpy(data: bytes, start: int, count: int, varints: bool) -> tuple[list[int], int] | None:
    """What the reference reads and how many bytes it takes; None if they make no sense."""
    reader = Reader(data)
    reader.at = start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "decode", lambda *_, **__: None)
        try:
            values = (reader.varints if varints else reader.ints)(count)
        except CorruptStateError:
            return None
    return values.tolist(), reader.at - start


def check(data: bytes, start: int, count: int, *, varints: bool) -> None:
    found, expected = (
        decode(data, start, count, varints=varints),
        by_numpy(data, start, count, varints),
    )
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found[0].tolist(), found[1]) == expected


def written_by_numpy(values: np.ndarray) -> tuple[bytes, bytes]:
    """What the reference writes: the shortest coding, and varints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "encode", lambda *_, **__: None)
        return integers.encode(values), integers.varints(values)


def check_written(values: np.ndarray) -> None:
    assert (kernel.encode(values), kernel.encode(values, varints=True)) == written_by_numpy(values)


@given(ARRAYS)
def test_arrays_are_written_as_by_numpy(values):
    check_written(values)


@given(ARRAYS, st.integers(1, 1 << 20), INT64, st.integers(1, 9))
def test_so_are_sums_multiples_and_repeats(steps, unit, first, times):
    with np.errstate(over="ignore"):
        values = np.cumsum(steps) * unit + first
    check_written(values)
    check_written(np.repeat(values, times))
    check_written(np.repeat(steps % 5 * unit, times))


@given(st.integers(0, 3), st.integers(1, 70))
def test_long_arrays_and_views_are_written_as_by_numpy(seed, bits):
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**62), 2**62, 3000) >> (63 - min(bits, 63))
    check_written(values)
    check_written(values[::3])


@given(ARRAYS, st.integers(0, 3), st.binary(max_size=3))
def test_arrays_are_read_as_by_numpy(values, start, behind):
    before = bytes(start)
    check(before + integers.encode(values) + behind, start, len(values), varints=False)
    check(before + integers.varints(values) + behind, start, len(values), varints=True)


@given(ARRAYS, st.integers(1, 1 << 20), INT64)
def test_so_are_sums_and_multiples(steps, unit, first):
    with np.errstate(over="ignore"):
        values = np.cumsum(steps) * unit + first
    check(integers.encode(values), 0, len(values), varints=False)


@given(ARRAYS, st.data())
def test_bytes_that_end_early_are_refused(values, draw):
    data = integers.encode(values)
    cut = draw.draw(st.integers(0, len(data) - 1))
    check(data[:cut], 0, len(values), varints=False)


@given(ARRAYS, st.data())
def test_damaged_bytes_are_read_as_by_numpy_or_refused(values, draw):
    data = bytearray(integers.encode(values))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    check(bytes(data), 0, len(values), varints=False)


@given(st.binary(max_size=40), st.integers(1, 30))
def test_any_bytes_are_read_as_by_numpy_or_refused(data, count):
    check(data, 0, count, varints=False)
    if (found := decode(data, 0, count, varints=True)) is not None:  # NumPy drops bits beyond 64
        assert (found[0].tolist(), found[1]) == by_numpy(data, 0, count, varints=True)

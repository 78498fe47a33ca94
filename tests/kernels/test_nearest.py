import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gistrec import kernels
from gistrec.kernels.nearest import Codebook


def reference(rows_MW, words_CW):
    """Distances in whole numbers of any size; argmin gives the first of equal ones."""
    rows, words = rows_MW.astype(object), words_CW.astype(object)
    return [int(np.argmin([((r - w) ** 2).sum() for w in words])) for r in rows]


@pytest.mark.parametrize("path", ["native", "torch"])
@given(
    rows=st.integers(0, 9),
    codes=st.integers(1, 70),
    width=st.integers(1, 20),
    size=st.sampled_from([1, 3, 2**15]),
    seed=st.integers(0, 99),
)
def test_the_nearest_codeword_the_lowest_of_equal_ones(path, rows, codes, width, size, seed):
    if not kernels.available(path):
        pytest.skip("the native core was not built")
    rng = np.random.default_rng(seed)
    words_CW = rng.integers(-size, size + 1, (codes, width)).astype(np.float64)
    rows_MW = rng.integers(-size, size + 1, (rows, width)).astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: path == "native")
        found = Codebook(words_CW).nearest(rows_MW)
    assert found.tolist() == reference(rows_MW, words_CW)


def test_rows_need_not_be_contiguous():
    rng = np.random.default_rng(0)
    rows, words = (
        rng.integers(-9, 9, (40, 8)).astype(float),
        rng.integers(-9, 9, (30, 4)).astype(float),
    )
    found = Codebook(words).nearest(rows[:, 2:6])
    assert found.tolist() == reference(rows[:, 2:6], words)

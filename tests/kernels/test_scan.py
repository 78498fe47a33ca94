import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import kernels
from gistrec.errors import ConfigError, DataError
from gistrec.kernels.scan import Scan

PATHS = [path for path in kernels.PATHS if kernels.available(path)]
EVERY_PATH = pytest.mark.parametrize("path", PATHS)


def sorted_in_full(rows_VD, query_BD, k, exclude, bias_V):
    """Every score in double precision, rounded, and a stable sort."""
    out = []
    for query_D, items in zip(query_BD, exclude, strict=True):
        score_V = rows_VD.astype(np.float64) @ query_D.astype(np.float64)
        score_V = (score_V if bias_V is None else score_V + bias_V).astype(np.float32)
        left = np.setdiff1d(np.arange(len(rows_VD)), items)
        order = left[np.argsort(-score_V[left], kind="stable")][:k]
        out.append((order.tolist(), score_V[order]))
    return out


def check(path, rows_VD, query_BD, k, exclude=None, bias_V=None):
    scan = Scan(rows_VD, bias_V, path=path)
    item_BK, score_BK = scan.top_k(query_BD, k, exclude=exclude)
    assert item_BK.shape == score_BK.shape == (len(query_BD), min(k, len(rows_VD)))
    exclude = exclude or [np.zeros(0, np.int64)] * len(query_BD)
    expected = sorted_in_full(rows_VD, query_BD, k, exclude, bias_V)
    for item_K, score_K, (items, scores) in zip(item_BK, score_BK, expected, strict=True):
        assert item_K[: len(items)].tolist() == items
        np.testing.assert_allclose(score_K[: len(items)], scores, rtol=1e-6)
        assert (item_K[len(items) :] == -1).all()
        assert (score_K[len(items) :] == -np.inf).all()


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@st.composite
def requests(draw):
    """Catalogues of few distinct vectors or many, of like lengths or not."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.sampled_from([1, 2, 15, 16, 127, 129, 1000, 5000]))
    width = draw(st.sampled_from([1, 3, 4, 7, 32, 50, 64, 100]))
    queries = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 33, 65]))
    rows_VD = rng.normal(size=(count, width))
    if draw(st.booleans()):  # many equal scores
        rows_VD = rows_VD[rng.integers(0, max(1, count // 10), count)]
    if draw(st.booleans()):  # some vectors outshine the others
        rows_VD *= np.exp(3 * rng.normal(size=(count, 1)))
    if draw(st.booleans()):  # some components do
        rows_VD[rng.integers(0, count, count // 4), rng.integers(0, width)] *= 50
    query_BD = rng.normal(size=(queries, width)) * 10.0 ** draw(st.integers(-3, 3))
    bias_V = rng.normal(size=count) if draw(st.booleans()) else None
    share = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    exclude = [rng.permutation(count)[: round(share * count)] for _ in range(queries)]
    k = draw(st.sampled_from([1, 10, 100, 6000]))
    return (
        rows_VD.astype(np.float32),
        query_BD.astype(np.float32),
        k,
        exclude if draw(st.booleans()) else None,
        None if bias_V is None else bias_V.astype(np.float32),
    )


@EVERY_PATH
@settings(max_examples=40, deadline=None)
@given(request=requests())
def test_lists_are_those_of_a_stable_sort_of_all_scores(path, request):
    check(path, *request)


@EVERY_PATH
def test_a_catalogue_of_many_chunks(path):
    rows_VD = normal(30_000, 64)
    check(path, rows_VD, normal(3, 64, seed=1), 100)
    check(path, rows_VD[::-1].copy(), normal(3, 64, seed=1), 3)


@EVERY_PATH
def test_the_best_come_last(path):
    rows_VD = normal(10_000, 16) * np.linspace(0.1, 3, 10_000, dtype=np.float32)[:, None]
    check(path, rows_VD, normal(2, 16, seed=1), 50)


@EVERY_PATH
def test_equal_items_stand_in_the_order_of_their_indices(path):
    rows_VD = np.tile(normal(1, 64), (9000, 1))
    item_BK, _ = Scan(rows_VD, path=path).top_k(normal(1, 64, seed=1), 5)
    assert item_BK.tolist() == [[0, 1, 2, 3, 4]]
    item_BK, _ = Scan(np.zeros((300, 4), np.float32), path=path).top_k(
        -normal(2, 4), 3, exclude=[np.array([1]), np.array([2, 0, 2])]
    )
    assert item_BK.tolist() == [[0, 2, 3], [1, 3, 4]]


@EVERY_PATH
def test_vectors_that_int8_hardly_tells_apart(path):
    rows_VD = normal(1, 64) + 1e-5 * normal(9000, 64, seed=1)
    query_BD = normal(4, 64, seed=2)
    check(path, rows_VD, np.concatenate([query_BD, -query_BD]), 100)


@EVERY_PATH
def test_a_query_whose_code_keeps_one_component_that_no_item_has(path):
    rows_VD, query_BD = np.round(20 * normal(9000, 32)), normal(2, 32, seed=1)
    rows_VD[:, 0], rows_VD[:, 1], query_BD[:, 0] = 0, 127, 2000
    check(path, rows_VD, query_BD, 50)


@EVERY_PATH
def test_a_bias_decides_where_vectors_do_not(path):
    check(path, 1e-3 * normal(5000, 32), normal(2, 32), 20, bias_V=10 * normal(5000))


@EVERY_PATH
def test_vectors_of_zeros_and_tiny_numbers(path):
    rows_VD = normal(200, 8) * 1e-20
    rows_VD[::3] = 0
    check(path, rows_VD, normal(2, 8), 150)
    check(path, rows_VD, np.zeros((1, 8), np.float32), 150)


@EVERY_PATH
def test_no_item_and_no_query(path):
    item_BK, _ = Scan(np.zeros((0, 4), np.float32), path=path).top_k(normal(2, 4), 3)
    assert item_BK.shape == (2, 0)
    item_BK, _ = Scan(normal(5, 4), path=path).top_k(normal(0, 4), 3, exclude=[])
    assert item_BK.shape == (0, 3)


@EVERY_PATH
def test_what_is_not_finite_is_refused(path):
    broken = normal(3, 4)
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match="not all finite"):
        Scan(broken, path=path)
    with pytest.raises(DataError, match="diverged training"):
        Scan(normal(3, 4), path=path).top_k(broken, 2)


@EVERY_PATH
def test_wrong_use_is_refused(path):
    scan = Scan(normal(5, 4), path=path)
    with pytest.raises(ConfigError, match="at least 1; given 0"):
        scan.top_k(normal(1, 4), 0)
    with pytest.raises(DataError, match="allowed are indices 0 to 4"):
        scan.top_k(normal(1, 4), 1, exclude=[np.array([2, 5])])
    with pytest.raises(DataError, match="3 lists of items to leave out for 1 queries"):
        scan.top_k(normal(1, 4), 1, exclude=[np.array([2])] * 3)
    with pytest.raises(DataError, match="queries of width 3 for items of width 4"):
        scan.top_k(normal(1, 3), 1)


@pytest.mark.parametrize("instructions", ["portable", "avx2"])
def test_every_instruction_set_finds_the_same(instructions):
    pytest.importorskip("gistrec._native")
    ask = (
        "import numpy as np; from gistrec.kernels.scan import Scan; "
        "rng = np.random.default_rng(0); row = rng.normal(size=(9000, 50)).astype('f4'); "
        "query = rng.normal(size=(11, 50)).astype('f4'); "
        "print(Scan(row, row[:, 0], path='native').top_k(query, 40)[0].tolist())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", ask],
            env=os.environ | {"GISTREC_ISA": asked},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for asked in ("", instructions)
    ]
    assert found[0] == found[1]

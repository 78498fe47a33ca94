"""Codebooks that give the same codes on every machine.

Rows and codewords are whole multiples of a step. A product of a row and a codeword (at most 2^15
steps), summed over up to 2^14 columns, stays below 2^53, so that fp64 holds it exactly whatever the
order of summation: a row's code does not depend on the rows beside it.

Shapes: N sample rows, C codewords, W their width.
"""

import faiss
import numpy as np
from torch import Tensor

from gistrec.codecs import rows_of
from gistrec.kernels.nearest import Floats

LARGEST_ROW = 2**22
"""Steps; larger numbers are cut off."""
SMALLEST_STEP = -126
"""Exponent; below it fp32 loses digits."""
LIMIT = 1e15
"""Larger numbers are cut off before k-means, whose fp32 distances would become infinite."""


def in_steps(x: Tensor, step: float) -> Floats:
    """One row per slot, (M, W), in whole steps."""
    rows_MW: Floats = np.rint(rows_of(x).double().numpy() / step)
    return rows_MW.clip(-LARGEST_ROW, LARGEST_ROW)


def centroids(rows_NW: Floats, count: int, *, sample: int = 256) -> Floats:
    """At most `count` centroids of k-means (C, W), of `sample` rows for each; few rows as they are.

    Rows are whatever numbers, and so are centroids.
    """
    if len(rows_NW) <= count:
        return rows_NW
    kmeans = faiss.Kmeans(
        rows_NW.shape[1],
        count,
        niter=10,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=sample,
    )
    kmeans.train(rows_NW.clip(-LIMIT, LIMIT).astype(np.float32, order="C"))
    return np.asarray(kmeans.centroids, np.float64)

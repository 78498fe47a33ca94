"""Fused attention: scores with relative biases that never exist as a matrix; forward and backward.

    x = scale * q k + near[distance in events] + far[bucket of elapsed time]
    silu:     y = after * sum over the slots a query sees of silu(x) v
    softmax:  y = sum over them of softmax(x) v

Compiled only; the eager form is that of each backbone, and what this one is tested against.

Shapes: B users, H heads, Q queries, T slots, K and V widths of keys and values, D distances.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gistrec import kernels


@dataclasses.dataclass(frozen=True)
class Places:
    """Where queries and slots stand; B may be 1 where all users are alike.

    A query sees a slot that is real and not after it.
    """

    query_BQ: Tensor
    """Position of each query, int32."""
    slot_BT: Tensor
    """Position of each slot, int32."""
    real_BT: Tensor
    """Whether there is a slot; T may be 1 if all are alike."""
    distances: int
    """One more than the largest distance between a query and a slot before it."""


def compiled(*tensors: Tensor) -> bool:
    """Whether `attend` takes these tensors."""
    return kernels.native() and all(
        t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors
    )


def attend(
    q_BHQK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    places: Places,
    near_HD: Tensor,
    *,
    far_HN: Tensor | None = None,
    bucket_BQT: Tensor | None = None,
    visible: Tensor | None = None,
    softmax: bool,
    scale: float = 1.0,
    after: float = 1.0,
) -> Tensor:
    """Outputs (B, H, Q, V).

    Args:
        q_BHQK: Queries.
        k_BHTK: Keys, with H heads or one.
        v_BHTV: Values, with H heads or one.
        places: Where queries and slots stand.
        near_HD: Bias by distance, for all of `places.distances`.
        far_HN: Bias by bucket of elapsed time; 64 are read.
        bucket_BQT: Those buckets, uint8, by `time_buckets`.
        visible: Further hides slots: broadcast to (B, H, Q, T).
        softmax: Whether weights are a softmax of scores rather than their SiLU.
        scale: Factor of dot products.
        after: Factor of the outputs; without softmax alone.
    """
    how = (places, bucket_BQT, visible, softmax, scale, after)
    y_BHQV: Tensor = _Attend.apply(q_BHQK, k_BHTK, v_BHTV, near_HD, far_HN, how)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return y_BHQV


def time_buckets(at_BQ: Tensor, time_BT: Tensor, first_N: Tensor) -> Tensor:
    """Bucket of the seconds between each slot and query, at least one: (B, Q, T) uint8.

    Args:
        at_BQ: Request time of each query, int64.
        time_BT: Time of each slot, int64.
        first_N: The least seconds of each of 64 buckets, int32.
    """
    from gistrec._native import time_buckets as compute

    at_BQ, time_BT = at_BQ.contiguous(), time_BT.contiguous()
    bucket_BQT = torch.empty(*at_BQ.shape, time_BT.shape[1], dtype=torch.uint8)
    address = [t.data_ptr() for t in (at_BQ, time_BT, first_N, bucket_BQT)]
    compute(address, tuple(bucket_BQT.shape))
    return bucket_BQT


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHQK: Tensor,
        k_BHTK: Tensor,
        v_BHTV: Tensor,
        near_HD: Tensor,
        far_HN: Tensor | None,
        how: tuple[Any, ...],
    ) -> Tensor:
        from gistrec._native import attend as compute

        q_BHQK, k_BHTK, v_BHTV = (_dense(t) for t in (q_BHQK, k_BHTK, v_BHTV))
        users, num_heads, queries, _ = q_BHQK.shape
        y_BHQV = _rows_like(q_BHQK, v_BHTV.shape[-1])
        log_sum_BHQ = q_BHQK.new_empty((users, num_heads, queries) if how[3] else 0)
        ctx.how = how
        ctx.save_for_backward(q_BHQK, k_BHTK, v_BHTV, near_HD, far_HN, y_BHQV, log_sum_BHQ)
        _call(compute, q_BHQK, k_BHTK, v_BHTV, near_HD, far_HN, y_BHQV, log_sum_BHQ, how, [])
        return y_BHQV

    @staticmethod
    def backward(ctx: Any, grad_BHQV: Tensor) -> tuple[Tensor | None, ...]:
        from gistrec._native import attend_backward as compute

        q_BHQK, k_BHTK, v_BHTV, near_HD, far_HN, y_BHQV, log_sum_BHQ = ctx.saved_tensors
        gradients = [_rows_like(t, t.shape[-1]) for t in (q_BHQK, k_BHTK, v_BHTV)]
        grad_near = torch.empty_like(near_HD)
        grad_far = None if far_HN is None else torch.zeros_like(far_HN)
        more = [_dense(grad_BHQV), *gradients, grad_near, grad_far]
        saved = (q_BHQK, k_BHTK, v_BHTV, near_HD, far_HN, y_BHQV, log_sum_BHQ)
        _call(compute, *saved, ctx.how, more)
        return *gradients, grad_near, grad_far, None


def _call(
    compute: Callable[..., None],
    q_BHQK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    near_HD: Tensor,
    far_HN: Tensor | None,
    y_BHQV: Tensor,
    log_sum_BHQ: Tensor,
    how: tuple[Any, ...],
    more: list[Tensor | None],
) -> None:
    places, bucket_BQT, visible, softmax, scale, after = how
    users, num_heads, queries, k_width = q_BHQK.shape
    slots, v_width = v_BHTV.shape[2:]
    if visible is not None:
        visible = visible.expand(users, num_heads, queries, slots)
        if visible.stride(-1) != 1:
            visible = visible.contiguous()
    near_HD, far_HN = near_HD.contiguous(), None if far_HN is None else far_HN.contiguous()
    query_BQ, slot_BT, real_BT = (
        t.contiguous() for t in (places.query_BQ, places.slot_BT, places.real_BT)
    )
    rows = [q_BHQK, k_BHTK, v_BHTV, y_BHQV, *more[:4]]
    tables = [near_HD, far_HN, log_sum_BHQ, query_BQ, slot_BT, real_BT, bucket_BQT, visible]
    compute(
        [0 if t is None else t.data_ptr() for t in (*rows, *tables, *more[4:])],
        [t.stride(axis) for t in rows if t is not None for axis in range(3)],
        [
            *(0 if len(t) == 1 else t.shape[1] for t in (query_BQ, slot_BT, real_BT)),
            int(real_BT.shape[1] > 1),
            *((0, 0, 0) if visible is None else visible.stride()[:3]),
            *(users, num_heads, queries, slots, k_width, v_width),
            *(k_BHTK.shape[1], v_BHTV.shape[1], near_HD.shape[1]),
            0 if far_HN is None else far_HN.shape[1],
        ],
        scale,
        after,
        softmax,
    )


def _dense(x_BHSK: Tensor) -> Tensor:
    """With numbers of a row side by side."""
    return x_BHSK if x_BHSK.stride(-1) == 1 else x_BHSK.contiguous()


def _rows_like(x_BHSK: Tensor, width: int) -> Tensor:
    """Room for rows of all heads side by side, as the layers' widths have them."""
    users, num_heads, size, _ = x_BHSK.shape
    return x_BHSK.new_empty(users, size, num_heads, width).transpose(1, 2)

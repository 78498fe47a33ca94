"""Attention weights of candidates over events: a softmax over the best of those they may see.

Shapes: B users, H heads, N candidates, T events, P further columns (such as prompts).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_HIDDEN = -1e30
"""Score of an event that a candidate may not see; weights of rows without any other are 0."""


def softmax_of_best(
    score_BHNT: Tensor,
    visible: Tensor | None,
    *,
    keep: int | None = None,
    by: Tensor | None = None,
    side_BHNP: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Weights (B, H, N, T), 0 of what is not among the best, and those of the further columns.

    Args:
        score_BHNT: Scores; they are overwritten, and so is `by`.
        visible: Which events a candidate may see, broadcast to the scores; None: all.
        keep: How many of the best are weighed; None: all. Equal ones at the end are kept together.
        by: By which numbers they are the best, broadcast to the scores; None: by the scores.
        side_BHNP: Scores of the further columns, which are always kept.
    """
    hide = None if visible is None else visible.to(score_BHNT.dtype).sub_(1).mul_(-_HIDDEN)
    weight: Tensor = _Weights.apply(score_BHNT, side_BHNP, hide, by, keep)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    events = score_BHNT.shape[-1]
    return weight[..., :events], None if side_BHNP is None else weight[..., events:]


def least_of_best(score: Tensor, keep: int) -> Tensor:
    """The `keep`-th largest number of each row, (..., 1); there are more than `keep`."""
    if score.device.type != "cpu":
        return score.topk(keep, -1, sorted=False).values.amin(-1, keepdim=True)
    # two to six times faster than topk on a CPU
    place = score.shape[-1] - keep
    found = np.partition(score.detach().numpy(), place, -1)[..., place : place + 1]
    return torch.from_numpy(found.copy())


class _Weights(torch.autograd.Function):
    """In place where it can be: masks and comparisons that make copies are most of the time."""

    @staticmethod
    def forward(
        ctx: Any,
        score: Tensor,
        side: Tensor | None,
        hide: Tensor | None,
        by: Tensor | None,
        keep: int | None,
    ) -> Tensor:
        events = score.shape[-1]
        if hide is not None:
            score.add_(hide)
        rank = score
        if by is not None:
            rank = by if hide is None else by + hide
        chosen = keep is not None and events > keep
        least = score.new_full((), _HIDDEN / 10)
        if keep is not None and chosen:
            least = least_of_best(rank, keep).clamp_(min=_HIDDEN / 10)
        both = score if side is None else torch.cat([score, side], -1)
        weight = both.softmax(-1)
        if chosen or hide is not None or by is not None:
            weight[..., :events].mul_(rank.ge_(least))
            weight.div_(weight.sum(-1, keepdim=True).clamp_(min=1e-30))
        ctx.save_for_backward(weight)
        ctx.events = events if side is not None else None
        return weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        found = torch._softmax_backward_data(gradient, weight, -1, weight.dtype)
        if ctx.events is None:
            return found, None, None, None, None
        return found[..., : ctx.events], found[..., ctx.events :], None, None, None

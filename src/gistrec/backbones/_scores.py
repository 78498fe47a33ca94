"""From the newest events' outputs to scores of candidates, and to the best of the catalogue.

Shapes: B users, T events of a user, C candidates, K length of a list, D width,
U items of users, once each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gistrec.backbones import Ranking
from gistrec.backbones._blocks import ItemHead, Repeats
from gistrec.dataset import Ints


class Asked(NamedTuple):
    """What a head is asked for, where the weights are; events are given for repeats alone."""

    h_BD: Tensor
    """Outputs of the users' newest events."""
    item_BT: Tensor = torch.zeros(0, dtype=torch.int64)
    """The items of all their events."""
    weight_BT: Tensor = torch.zeros(0)
    """What each event counts, 0 where there is none."""


def scores(head: ItemHead, asked: Asked, item_C: Tensor | None) -> Tensor:
    """Scores of candidates (None: of all items), (B, C), on the CPU."""
    item_C = None if item_C is None else item_C.to(asked.h_BD.device)
    score_BC = head.score(asked.h_BD, item_C)
    if head.repeats is None:
        return score_BC.cpu()
    if item_C is None:
        return head.repeats.join(score_BC, asked.weight_BT, asked.item_BT, None, head.prior).cpu()
    # events of items that are not candidates count towards one more column, cut off again
    column_V = torch.full((head.num_items,), len(item_C), device=item_C.device)
    column_V[item_C] = torch.arange(len(item_C), device=item_C.device)
    wide_BC, wide_C = F.pad(score_BC, (0, 1)), F.pad(item_C, (0, 1))
    column_BT = column_V[asked.item_BT]
    both_BC = head.repeats.join(wide_BC, asked.weight_BT, column_BT, wide_C, head.prior)
    return both_BC[:, :-1].cpu()


def best(head: ItemHead, asked: Asked, k: int, exclude: Sequence[Ints]) -> list[Ranking]:
    """The k best items of each user by a scan of the catalogue, but for those left out.

    With repeats the scan finds new items, whose score is a product and a bias, and the user's own
    ones are scored apart.
    """
    if head.repeats is None:
        return _scanned(head, asked, k, exclude)
    own = _own(head, head.repeats, asked)
    both = [np.concatenate([e, o.item_index]) for e, o in zip(exclude, own, strict=True)]
    out = []
    for new, again, left_out in zip(_scanned(head, asked, k, both), own, exclude, strict=True):
        kept = np.isin(again.item_index, left_out, invert=True)
        item = np.concatenate([new.item_index, again.item_index[kept]])
        score = np.concatenate([new.score, again.score[kept]])
        order = np.lexsort((item, -score))[:k]
        out.append(Ranking(item[order], score[order]))
    return out


def _own(head: ItemHead, repeats: Repeats, asked: Asked) -> list[Ranking]:
    """All items of each user's events, ascending, and their scores."""
    first_B1 = torch.arange(len(asked.h_BD))[:, None] * head.num_items
    real_BT = asked.weight_BT > 0
    key_U, which = (first_B1 + asked.item_BT)[real_BT].unique(return_inverse=True)
    count_U = torch.zeros(len(key_U)).scatter_add(0, which, asked.weight_BT[real_BT])
    user_U, item_U = key_U // head.num_items, key_U % head.num_items
    score_U = head.score_pairs(asked.h_BD, user_U, item_U)
    score_U = repeats.both(score_U, count_U, repeats.inclination[item_U], head.prior[item_U])
    ends = torch.searchsorted(key_U, first_B1[1:, 0]).tolist()
    items, scores = (np.split(t.numpy(), ends) for t in (item_U, score_U))
    return [Ranking(item, score) for item, score in zip(items, scores, strict=True)]


def _scanned(head: ItemHead, asked: Asked, k: int, exclude: Sequence[Ints]) -> list[Ranking]:
    item_BK, score_BK = head.scan().top_k(head.direction(asked.h_BD).numpy(), k, exclude=exclude)
    left_B = (item_BK >= 0).sum(1)  # lists are filled up behind the last item that is left
    return [
        Ranking(item_K[:left], score_K[:left])
        for item_K, score_K, left in zip(item_BK, score_BK, left_B, strict=True)
    ]

"""Candidates as a ranker is asked about them: what the request tells of them, and the answer.

Shapes: N candidates, C context columns, F features, T labels.

An item that the ranker does not know is scored as nothing but the features that the request gives
of it; without any, by the user and the context alone. So a new item never makes a request fail.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gistrec.errors import DataError
from gistrec.impressions import feature_row, feature_rows
from gistrec.served import ItemId, Scored, Served, scored

Facts = Mapping[str, Any]
"""Column -> value, as in the data that the ranker was trained on; `None` where missing."""


class Told(NamedTuple):
    """What a request tells a ranker besides items."""

    context: Facts = {}
    """Of all candidates."""
    contexts: Sequence[Facts] = ()
    """Of each candidate, before the one of all; none: no candidate has its own."""
    features: Sequence[Facts] = ()
    """Of each candidate, for those whose item the ranker does not know; a text such as `Drama|War`
    has several values."""


def known_index(served: Served, item_ids: Sequence[ItemId], told: Told) -> list[int]:
    """Item indices of candidates; -1 of those that a ranker does not know.

    Raises:
        DataError: the model is no ranker, and does not know an item or was told something.
    """
    if served.model.labels:
        return [served.items.index(item) for item in item_ids]
    if any(told):
        raise DataError(
            f"{served.backbone.spec.name} takes no context and no features of candidates, it is no "
            "ranker: give item ids alone"
        )
    return served.items.known(item_ids)


def best_first(
    served: Served,
    user_id: str,
    item_ids: Sequence[ItemId],
    index: Sequence[int],
    *,
    told: Told,
    at: int | None = None,
) -> list[Scored]:
    """Candidates, best first (of a ranker by the first label); equal ones keep their order.

    Args:
        served: The model.
        user_id: Whose.
        item_ids: At least one.
        index: Theirs, see `known_index`.
        told: What else is known of the request.
        at: The request's time, Unix seconds.

    Raises:
        DataError: a context that the ranker was not trained with, or facts of another number of
            candidates.
    """
    items, labels = served.items, served.model.labels
    index_N = torch.tensor([len(items) if i < 0 else i for i in index])
    if not labels:
        score_N = served.score(user_id, index_N, at=at)
        order_N = score_N.argsort(descending=True, stable=True)
        return scored(items, index_N[order_N].numpy(), score_N[order_N].tolist())
    state = served.current(user_id).state
    logit_NT = served.timed(
        "compute",
        served.backbone.predict,  # type: ignore[arg-type]  # of rankers
        state,
        index_N,
        at=at,
        context=_context(served, told, len(index)),
        features=_features(told, index),
    )
    order = logit_NT[:, 0].argsort(descending=True, stable=True).tolist()
    logits, shares = logit_NT.tolist(), logit_NT.sigmoid().tolist()
    return [
        Scored(
            item_ids[n],
            logits[n][0],
            items.title(index[n]) if index[n] >= 0 else str(item_ids[n]),
            dict(zip(labels, shares[n], strict=True)),
            known=index[n] >= 0,
        )
        for n in order
    ]


def _context(served: Served, told: Told, count: int) -> Tensor:
    """Feature rows (C,), or (N, C) where candidates have their own."""
    known = served.model.contexts
    _check(told.contexts, count, "contexts")
    for name in {name for facts in (told.context, *told.contexts) for name in facts}:
        if name not in known:
            raise DataError(
                f"unknown context {name!r}: this ranker was trained with "
                f"{', '.join(known) or 'no context'}; leave {name!r} out"
            )

    def rows(facts: Facts) -> list[int]:
        return [feature_row(name, facts.get(name)) for name in known]

    if not told.contexts:
        return torch.tensor(rows(told.context), dtype=torch.long)
    own = [rows({**told.context, **facts}) for facts in told.contexts]
    return torch.tensor(own, dtype=torch.long).reshape(count, len(known))


def _features(told: Told, index: Sequence[int]) -> Tensor | None:
    """Feature rows of unknown candidates, (N, F), -1 where there are fewer."""
    _check(told.features, len(index), "features")
    if not told.features:
        return None
    rows = [
        [] if i >= 0 else feature_rows(facts) for i, facts in zip(index, told.features, strict=True)
    ]
    widest = max(map(len, rows))
    padded = [row + [-1] * (widest - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), widest)


def _check(facts: Sequence[Facts], count: int, what: str) -> None:
    if facts and len(facts) != count:
        raise DataError(
            f"{what} of {len(facts)} candidates were given, but there are {count}: give as many "
            "(empty ones where there are none), or none at all"
        )

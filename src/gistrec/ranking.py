"""How well a ranker ranks what was shown: AUC, GAUC and logloss, from raw histories or states.

Shapes: N impressions, U users, T labels.

AUC is over all impressions; GAUC is the mean of each user's own, weighted by impressions, users
with one kind of label left out. Intervals are 95 %, by bootstrap over users.

A state answers as a server would: it is encoded after every event (`replay`), and every impression
is answered from the state of its time. `encoded_once` is the same without the past of a state: each
is made anew from the raw history. What lies between both is the drift.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch

from gistrec import metrics
from gistrec.backbones import Backbone
from gistrec.dataset import Ints
from gistrec.impressions import Impressions, Labels
from gistrec.metrics import Floats
from gistrec.recipe import Recipe
from gistrec.results import Row

EDGES = (50, 200, 1000)
"""Where the ranges of history lengths begin."""
_DRAWS = 200
_TOKENS = 20_000


@torch.no_grad()
def logits(
    backbone: Backbone, impressions: Impressions, numbers: Ints, *, max_len: int = 512
) -> Floats:
    """Uncompressed: the logits of impressions, (N, T), each from its history.

    Args:
        backbone: A ranker.
        impressions: What it was trained on, or the like.
        numbers: Which of them, ascending.
        max_len: Events that are read at least, as in training.
    """
    was_training = backbone.training
    backbone.eval()
    place = np.empty(len(impressions), np.int64)
    place[numbers] = np.arange(len(numbers))
    out = np.empty((len(numbers), len(impressions.labels)))
    device = next(backbone.parameters()).device
    for batch in impressions.batches(batch_tokens=_TOKENS, max_len=max_len, numbers=numbers):
        found = backbone.logits_of(batch.to(device)).cpu()  # type: ignore[operator]  # of rankers
        there = batch.number_BN >= 0
        out[place[batch.number_BN[there].numpy()]] = found[there].numpy()
    backbone.train(was_training)
    return out


def taught(backbone: Backbone, impressions: Impressions, *, max_len: int = 512) -> Impressions:
    """The same impressions with a teacher's answers, for a student to learn.

    Args:
        backbone: The teacher, a ranker trained on these impressions.
        impressions: Of which the training part is answered.
        max_len: Events that are read at least.
    """
    numbers = impressions.part("train")
    soft_NT = np.full(impressions.label_NT.shape, np.nan, np.float32)
    soft_NT[numbers] = 1 / (1 + np.exp(-logits(backbone, impressions, numbers, max_len=max_len)))
    return dataclasses.replace(impressions, soft_NT=soft_NT)


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What states of a recipe answered."""

    logit_NT: Floats
    blob_bytes: Ints
    """Stored bytes of each user's last state, (U,)."""
    full_bytes: Ints
    """Of the same user's uncompressed state."""
    log_events: Ints
    """Events of each of these users."""


@torch.no_grad()
def replay(backbone: Backbone, impressions: Impressions, numbers: Ints, recipe: Recipe) -> Replayed:
    """The logits of impressions from states that are encoded after every event.

    Args:
        backbone: A ranker.
        impressions: What it was trained on.
        numbers: Which of them, ascending: each user's history before the first of them is encoded
            once, every later event by itself.
        recipe: How states are kept.
    """
    chain, data = recipe.chain, impressions.dataset
    out = np.empty((len(numbers), len(impressions.labels)))
    sizes: list[tuple[int, int, int]] = []
    for mine in _by(impressions.user[numbers], np.arange(len(numbers))):
        asked = numbers[mine]
        first = int(data.offsets[impressions.user[asked[0]]])
        known = int(impressions.history_end[asked[0]])
        (whole,) = backbone.prefill([data.rows(first, known)], hints=True)
        encoded = chain.encode(whole)
        state = chain.decode(encoded)
        for group in _by(impressions.history_end[asked], mine):
            end = int(impressions.history_end[numbers[group[0]]])
            for row in range(known, end):
                (grown,) = backbone.append([state], [data.rows(row, row + 1)])
                ((encoded, state),) = zip(*chain.encode_grown([grown], [encoded]), strict=True)
            known = end
            out[group] = _answers(backbone, state, impressions, numbers[group])
        length = known - first
        sizes.append((len(recipe.pack(encoded)), backbone.state_bytes(length), length))
    blob, full, events = np.array(sizes, np.int64).reshape(-1, 3).T
    return Replayed(out, blob, full, events)


_AT_ONCE = 16
"""Histories of a user prefilled together."""


@torch.no_grad()
def encoded_once(
    backbone: Backbone, impressions: Impressions, numbers: Ints, recipe: Recipe
) -> Replayed:
    """The logits of impressions from states that are made anew for each, encoded once.

    Args:
        backbone: A ranker.
        impressions: What it was trained on.
        numbers: Which of them, ascending.
        recipe: How states are kept.
    """
    chain, data = recipe.chain, impressions.dataset
    out = np.empty((len(numbers), len(impressions.labels)))
    sizes: list[tuple[int, int, int]] = []
    for mine in _by(impressions.user[numbers], np.arange(len(numbers))):
        first = int(data.offsets[impressions.user[numbers[mine[0]]]])
        groups = list(_by(impressions.history_end[numbers[mine]], mine))
        for start in range(0, len(groups), _AT_ONCE):
            some = groups[start : start + _AT_ONCE]
            ends = [int(impressions.history_end[numbers[g[0]]]) for g in some]
            whole = backbone.prefill([data.rows(first, end) for end in ends], hints=True)
            encoded = chain.encode_many(whole)
            for group, state in zip(some, chain.decode_many(encoded), strict=True):
                out[group] = _answers(backbone, state, impressions, numbers[group])
        length = ends[-1] - first
        sizes.append((len(recipe.pack(encoded[-1])), backbone.state_bytes(length), length))
    blob, full, events = np.array(sizes, np.int64).reshape(-1, 3).T
    return Replayed(out, blob, full, events)


def _by(key: Ints, numbers: Ints) -> Iterator[Ints]:
    """Numbers in runs of equal keys."""
    return iter(np.split(numbers, np.flatnonzero(np.diff(key)) + 1))


def _answers(backbone: Backbone, state: object, impressions: Impressions, numbers: Ints) -> Floats:
    found = backbone.predict(  # type: ignore[operator]  # of rankers
        state,
        torch.from_numpy(impressions.item_index[numbers]),
        at=int(impressions.timestamp[numbers[0]]),
        context=torch.from_numpy(impressions.context_NC[numbers]),
    )
    return cast(Floats, found.double().numpy())


def accuracy(impressions: Impressions, numbers: Ints, logit_NT: Floats, *, label: int = 0) -> Row:
    """AUC, GAUC and logloss of one label with intervals, on the whole and by history length.

    Args:
        impressions: Where the labels are.
        numbers: Which impressions were answered, (N,).
        logit_NT: The answers.
        label: Number of the label; impressions without it are left out.
    """
    given: Labels = impressions.label_NT[numbers, label]
    known = ~np.isnan(given)
    numbers, logit_N, label_N = numbers[known], logit_NT[known, label], given[known]
    user_N = impressions.user[numbers]
    length_N = impressions.lengths[numbers]
    row: Row = {"label": impressions.labels[label], "impressions": len(numbers)}
    row |= _figures(user_N, logit_N, label_N)
    group = np.searchsorted(EDGES, length_N, side="right")
    names = [f"<{EDGES[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(EDGES))]
    names.append(f">={EDGES[-1]}")
    row["by_length"] = {
        name: _figures(user_N[at], logit_N[at], label_N[at])
        for n, name in enumerate(names)
        if (at := group == n).any()
    }
    return row


def every_label(impressions: Impressions, numbers: Ints, logit_NT: Floats) -> Row:
    """`accuracy` of the first label; where there are several, `labels` has figures of each."""
    row = accuracy(impressions, numbers, logit_NT)
    if len(impressions.labels) > 1:
        row["labels"] = {
            name: {key: value for key, value in found.items() if key not in ("label", "by_length")}
            for label, name in enumerate(impressions.labels)
            if (found := accuracy(impressions, numbers, logit_NT, label=label))
        }
    return row


def _figures(user_N: Ints, logit_N: Floats, label_N: Labels) -> Row:
    order = np.argsort(user_N, kind="stable")
    cuts = np.flatnonzero(np.diff(user_N[order])) + 1
    parts = np.split(order, cuts)
    own = [metrics.auc(logit_N[p], label_N[p]) for p in parts]
    weight = np.array([0 if np.isnan(a) else len(p) for a, p in zip(own, parts, strict=True)])
    own_U = np.nan_to_num(np.array(own))
    loss_N = metrics.log_loss(logit_N, label_N)

    def gauc(users: Sequence[int] | Ints) -> float:
        total = weight[users].sum()
        return float((weight[users] * own_U[users]).sum() / total) if total else float("nan")

    def of(measure: Callable[[Ints], float]) -> Callable[[Ints], float]:
        return lambda users: measure(np.concatenate([parts[u] for u in users]))

    measures = {
        "auc": of(lambda n: metrics.auc(logit_N[n], label_N[n])),
        "gauc": gauc,
        "logloss": of(lambda n: float(loss_N[n].mean())),
    }
    row: Row = {"users": len(parts)}
    everybody = np.arange(len(parts))
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(parts), size=len(parts)) for _ in range(_DRAWS)]
    for name, measure in measures.items():
        row[name] = measure(everybody)
        row[f"{name}_interval"] = _range(measure(users) for users in drawn)
    return row


def change(impressions: Impressions, numbers: Ints, logit_NT: Floats, reference_NT: Floats) -> Row:
    """What one set of answers adds to another's AUC and GAUC of the first label, with intervals.

    Args:
        impressions: Where the labels are.
        numbers: Which impressions were answered, (N,).
        logit_NT: The answers.
        reference_NT: The others, to the same impressions.
    """
    label_N = impressions.label_NT[numbers, 0]
    known = ~np.isnan(label_N)
    user_N, label_N = impressions.user[numbers][known], label_N[known]
    order = np.argsort(user_N, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(user_N[order])) + 1)
    both = [logit_NT[known, 0], reference_NT[known, 0]]
    own_AU = np.array([[metrics.auc(a[p], label_N[p]) for p in parts] for a in both])
    weight = np.where(np.isnan(own_AU[0]), 0, [len(p) for p in parts])
    gain_U = np.nan_to_num(own_AU[0] - own_AU[1])

    def auc(users: Ints) -> float:
        n = np.concatenate([parts[u] for u in users])
        return metrics.auc(both[0][n], label_N[n]) - metrics.auc(both[1][n], label_N[n])

    def gauc(users: Ints) -> float:
        total = weight[users].sum()
        return float((weight * gain_U)[users].sum() / total) if total else float("nan")

    everybody, rng = np.arange(len(parts)), np.random.default_rng(0)
    drawn = [rng.integers(len(parts), size=len(parts)) for _ in range(_DRAWS)]
    row: Row = {}
    for name, measure in {"auc": auc, "gauc": gauc}.items():
        row[f"{name}_change"] = measure(everybody)
        row[f"{name}_change_interval"] = _range(measure(users) for users in drawn)
    return row


def _range(values: Iterable[float]) -> tuple[float, float]:
    low, high = np.nanquantile(list(values), [0.025, 0.975])
    return float(low), float(high)


# ---- what only counts ----


def statistics(impressions: Impressions, numbers: Ints) -> Floats:
    """Logits of a logistic regression on what counting knows, (N, 1): the baseline to beat.

    Features: the item's and the user's log odds, smoothed by 20 impressions, with their counts, and
    how often the user has had this very item. The item's are of the training part; the user's of
    his history until then, by its actions.
    """
    train = impressions.part("train")
    label_N = np.nan_to_num(impressions.label_NT[:, 0])
    data = impressions.dataset
    rate = label_N[train].mean()
    shown_V = np.bincount(impressions.item_index[train], minlength=impressions.num_items)
    liked_V = np.bincount(
        impressions.item_index[train], label_N[train], minlength=impressions.num_items
    )
    action = np.ones(len(data.item_index)) if data.action is None else data.action & 1
    liked = np.concatenate([[0], np.cumsum(action)])
    start = data.offsets[impressions.user]

    def odds(liked: Floats, count: Ints) -> Floats:
        share = (liked + 20 * rate) / (count + 20)
        return cast(Floats, np.log(share / (1 - share)))

    def features(n: Ints) -> Floats:
        item = impressions.item_index[n]
        own = impressions.lengths[n]
        # an item's own training label is not known when it is predicted
        less = np.isin(n, train)
        columns = [
            odds(liked_V[item] - less * label_N[n], np.maximum(shown_V[item] - less, 0)),
            odds(liked[impressions.history_end[n]] - liked[start[n]], own),
            np.log1p(shown_V[item]),
            np.log1p(own),
            np.log1p(_times_before(impressions, n)),
        ]
        return np.stack([*columns, np.ones(len(n))], 1)

    x, y = features(train), label_N[train]
    weight = np.zeros(x.shape[1])
    for _ in range(20):  # Newton's steps
        p = 1 / (1 + np.exp(-x @ weight))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(x.shape[1])
        weight += np.linalg.solve(hessian, x.T @ (y - p) - 1e-3 * weight)
    found: Floats = (features(numbers) @ weight)[:, None]
    return found


def _times_before(impressions: Impressions, numbers: Ints) -> Ints:
    """How often the item of each impression stands in its history."""
    data = impressions.dataset
    rows = len(data.item_index)
    place = data.item_index * (rows + 1)  # then by row, and rows lie by user
    key = np.sort(place + np.arange(rows))
    wanted = impressions.item_index[numbers] * (rows + 1)
    start = data.offsets[impressions.user[numbers]]
    end = impressions.history_end[numbers]
    count: Ints = np.searchsorted(key, wanted + end) - np.searchsorted(key, wanted + start)
    return count

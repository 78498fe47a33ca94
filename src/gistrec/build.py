"""In bulk, from a log: a recipe for a model, and the stored histories and states of all users.

Shapes: U users, R events, V items.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gistrec import codecs
from gistrec.dataset import Dataset, History, Ints
from gistrec.errors import DataError
from gistrec.measure import Rules, Subject
from gistrec.recipe import Recipe
from gistrec.recommender import Recommender
from gistrec.train import Model


class Built(NamedTuple):
    """What was built."""

    users: int
    """Users whose events were logged and whose state was saved."""
    events: int
    """Their events."""
    kept: int
    """Users who were in the store already: their history is left as it is."""


def fit_recipe(model: Model, dataset: Dataset, codec: str, *, users: int = 256) -> Recipe:
    """A recipe for a model, fitted on the states of some users of its log.

    Args:
        model: Who writes the states.
        dataset: The log that it was trained on; the test targets are left out.
        codec: Spec of the codecs, for example `"recent(keep=64) | rvq()"`.
        users: How many, drawn at random (always the same ones).

    Raises:
        DataError: the log's items are not the model's. ConfigError, CodecError: a wrong codec.
    """
    return Subject(model, dataset, Rules(fit_users=users)).fit(codecs.parse(codec))


def build_states(
    recommender: Recommender,
    dataset: Dataset,
    *,
    batch_tokens: int = 65_536,
    report: Callable[[int], None] | None = None,
) -> Built:
    """Log every user's events and save their states, many users at a time.

    The store's user ids are the log's as text; actions are left out. A user who is in the store
    already keeps the stored history, and the state is brought up to it, so that a killed run can be
    repeated.

    Args:
        recommender: Whose model writes the states, and whose store they go to.
        dataset: The log; its items need not be the model's.
        batch_tokens: Events per batch, padding included.
        report: Called after every batch with the number of users that are behind it.

    Raises:
        DataError: the model knows none of the log's items.
        ConflictError: somebody else logs events of the same users.
    """
    ids = dataset.items.ids.tolist()
    index_V = np.array([recommender.items.index(item) for item in ids], np.int64)
    if not (index_V >= 0).any():
        raise DataError(
            f"the model knows none of the log's {len(ids)} items, such as {ids[0]!r}; its own are "
            f"such as {recommender.items.ids.tolist()[0]!r}: give a log with the same ids"
        )
    users = events = done = 0
    for batch in _batches(dataset, batch_tokens):
        # describing a user brings the state up to the stored history
        new = [n for n in batch if recommender.describe(str(dataset.user_ids[n])) is None]
        histories = [dataset.history(n) for n in new]
        known = [_known(h, index_V) for h in histories]
        states = recommender.backbone.append([recommender.empty] * len(known), known)
        for n, history, state in zip(new, histories, states, strict=True):
            user_id = str(dataset.user_ids[n])
            item_ids = dataset.items.ids[history.item_index].tolist()
            times = history.timestamp.tolist()
            length = recommender.log.append(user_id, item_ids, times, expected_length=0)
            recommender.states.save(user_id, state.replace(state.tensors, length=length))
            events += length
        users, done = users + len(new), done + len(batch)
        if report is not None:
            report(done)
    return Built(users, events, done - users)


def _batches(dataset: Dataset, batch_tokens: int) -> Iterator[Ints]:
    """User numbers in groups of similar history length, longest first."""
    length_U = np.diff(dataset.offsets)
    order = np.argsort(-length_U, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(256, batch_tokens // int(length_U[order[start]])))
        yield order[start : start + size]
        start += size


def _known(history: History, index_V: Ints) -> History:
    """A history as the model sees it: its own indices, without items that it does not know."""
    index = index_V[history.item_index]
    return History(index[index >= 0], history.timestamp[index >= 0])

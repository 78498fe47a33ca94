"""What a request takes, in ms, through the real recommender, codecs and store, one at a time.

Random users in random order; the kinds of requests take turns, so that a slow moment of the
machine hits all of them alike. Rows hold p50 and p99 over `Rules.requests` requests of each kind.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from gistrec.dataset import History, Ints
from gistrec.history_log import HistoryLog
from gistrec.measure import Subject, log_history
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.results import Row
from gistrec.stores import open_store

_WARM_UP = 3

Request = Callable[[int, int], object]
"""Called with the user's place in the sample and the number of the request."""


def served(subject: Subject, recipe: Recipe) -> Row:
    """Append one event, rank 100 and 1,000 candidates, recommend: from the state in the store.

    An append loads and decodes the state, steps the model, encodes and stores.
    """
    users, states = subject.timed_sample
    names, at = _names(users), subject.task.request_times[users].tolist()
    items = subject.dataset.items.ids
    with Recommender(subject.model, recipe, open_store(subject.rules.store)) as recommender:
        for name, n, state in zip(names, users, states, strict=True):
            recommender.forget(name)  # what a killed run left in a store that lasts
            log_history(recommender.log, name, subject.dataset, subject.task.history(n))
            recommender.states.save(name, state)

        def append(user: int, number: int) -> None:
            (item,) = items[subject.task.targets(users[user])[:1]].tolist()
            recommender.observe(names[user], [Event(item, at[user] + number)])

        def rank(candidates: Ints, user: int, _: int) -> None:
            recommender.rank(names[user], items[candidates].tolist(), at=at[user])

        def recommend(user: int, _: int) -> None:
            recommender.recommend(names[user], at=at[user])

        row = _times(subject, append, rank, recommend)
        for name in names:
            recommender.forget(name)
    return row


def recomputed(subject: Subject) -> Row:
    """The same requests with nothing stored but the log: read it, run the model over it, score."""
    users, _ = subject.timed_sample
    names, at = _names(users), subject.task.request_times[users].tolist()
    items = subject.dataset.items.ids
    with open_store(subject.rules.store) as store:
        log = HistoryLog(store)
        for name, n in zip(names, users, strict=True):
            log.forget(name)
            log_history(log, name, subject.dataset, subject.task.history(n))

        def score(user: int, candidates: Ints | None) -> torch.Tensor:
            logged = log.read(names[user])
            history = History(np.searchsorted(items, logged.item_id), logged.timestamp)
            index = None if candidates is None else torch.from_numpy(candidates)
            states = subject.backbone.prefill([history])
            return subject.backbone.score(states, index, at=[at[user]])

        def append(user: int, number: int) -> None:
            item = items[subject.task.targets(users[user])[:1]].tolist()
            log.append(names[user], item, [at[user] + number])

        def rank(candidates: Ints, user: int, _: int) -> None:
            score(user, candidates).argsort(dim=1, descending=True, stable=True)

        def recommend(user: int, _: int) -> None:
            subject.task.top_k(score(user, None), users[user : user + 1])

        row = _times(subject, append, rank, recommend)
        for name in names:
            log.forget(name)
    return row


def _names(users: Ints) -> list[str]:
    return [f"timed-{n}" for n in users]


def _times(
    subject: Subject, append: Request, rank: Callable[[Ints, int, int], object], recommend: Request
) -> Row:
    rng = np.random.default_rng(4)
    requests: dict[str, Request] = {"append": append, "recommend": recommend}
    for kind, count in (("rank", 100), ("rank_1000", 1000)):
        if count <= subject.dataset.num_items:
            candidates = rng.choice(subject.dataset.num_items, count, replace=False)
            requests[kind] = partial(rank, candidates)
    ms: Mapping[str, list[float]] = {kind: [] for kind in requests}
    for number in range(subject.rules.requests + _WARM_UP):
        for kind, request in requests.items():
            user = int(rng.integers(len(subject.timed_sample[0])))
            start = time.perf_counter()
            request(user, number)
            ms[kind].append((time.perf_counter() - start) * 1e3)
    return {
        f"{kind}_ms_p{p}": float(np.percentile(taken[_WARM_UP:], p))
        for kind, taken in ms.items()
        for p in (50, 99)
    }

"""Retrieve, pre-rank, rank: several models on one log, each fed with the best of the one before.

A recommender finds candidates in the whole catalogue; every ranker behind it scores the best of
what is left. All read the same history log, and each has states of its own, which are brought up to
the log when they are asked (see `served`).
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from gistrec.errors import ConfigError
from gistrec.impressions import feature_row
from gistrec.recommender import Recommender, Scored
from gistrec.served import Served, Watch, version_in


class Stage(NamedTuple):
    """What a stage did."""

    model: str
    """The backbone's spec."""
    candidates: int
    """How many items it scored; of the first stage, the whole catalogue."""
    ms: float
    """Milliseconds, its state included."""


class Cascaded(NamedTuple):
    """A list, and how it came about."""

    items: list[Scored]
    """Best first, with the scores of the last stage."""
    stages: list[Stage]


class Cascade:
    """A recommender and rankers behind it.

    Args:
        recommender: What finds candidates; closed with the cascade.
        rankers: Each with how many candidates it is given, at most.

    Raises:
        ConfigError: no ranker, or one is given more candidates than the one before.
    """

    def __init__(self, recommender: Recommender, rankers: Sequence[tuple[Served, int]]) -> None:
        given = [count for _, count in rankers]
        if not given or min(given) < 1 or given != sorted(given, reverse=True):
            raise ConfigError(
                f"a cascade needs rankers that are given fewer and fewer candidates, given {given}"
            )
        self.recommender, self.rankers = recommender, list(rankers)

    @classmethod
    def load(
        cls, model: str | Path, *rankers: tuple[str | Path, int], store: str = "ram://"
    ) -> Self:
        """Open model folders on one store.

        Args:
            model: What finds candidates.
            rankers: Folders in the order of the stages, with the candidates of each: for example
                `("tarq", 1000), ("twin", 100)`.
            store: Its URL.
        """
        return cls.behind(Recommender.load(model, store=store), rankers)

    @classmethod
    def behind(cls, recommender: Recommender, rankers: Sequence[tuple[str | Path, int]]) -> Self:
        """Open rankers on a recommender's store."""
        return cls(recommender, [(_beside(recommender, path), count) for path, count in rankers])

    def recommend(
        self,
        user_id: str,
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        at: int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Cascaded:
        """The k best items, and the time of every stage.

        An item that a ranker does not know stands behind those that it knows, in the order of the
        stage before.

        Args:
            user_id: Anyone.
            k: How many, at least 1.
            exclude_seen: As in `Recommender.recommend`.
            at: The request's time, Unix seconds.
            context: What is known of the request: names of context columns and their values.

        Raises:
            ConfigError: k is not positive, or above the candidates of the last ranker.
            BusyError: a state must be rebuilt, and too many others are.
        """
        if k > self.rankers[-1][1]:
            raise ConfigError(
                f"k is {k}, and the last ranker is given {self.rankers[-1][1]} candidates: ask for "
                "fewer items or give it more"
            )
        begun = time.perf_counter()
        found = self.recommender.recommend(
            user_id, k=max(k, self.rankers[0][1]), exclude_seen=exclude_seen, at=at
        )
        stages = [_stage(self.recommender.served, len(self.recommender.items), begun)]
        rows = [feature_row(name, value) for name, value in (context or {}).items()]
        for ranker, count in self.rankers:
            begun = time.perf_counter()
            found = _ranked(ranker, user_id, found[:count], at, torch.tensor(rows).long())
            stages.append(_stage(ranker, len(found), begun))
        return Cascaded(found[:k], stages)

    def close(self) -> None:
        """Close the store."""
        self.recommender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _beside(recommender: Recommender, path: str | Path) -> Served:
    """A model on the same log, with states of its own."""
    model, recipe = version_in(Path(path))
    store, settings, rebuilds = recommender.store, recommender.settings, recommender.rebuilds
    return Served(model, recipe, store, settings, Watch(), rebuilds)


def _stage(served: Served, candidates: int, begun: float) -> Stage:
    spec = str(served.backbone.spec)
    return Stage(spec, candidates, (time.perf_counter() - begun) * 1e3)


def _ranked(
    ranker: Served, user_id: str, found: list[Scored], at: int | None, context: torch.Tensor
) -> list[Scored]:
    index = [ranker.items.index(item.item_id) for item in found]
    known = [n for n, i in enumerate(index) if i >= 0]
    if not known:
        return found
    state = ranker.current(user_id).state
    score_N = ranker.backbone.predict(  # type: ignore[operator]  # of rankers
        state, torch.tensor([index[n] for n in known]), at=at, context=context
    )[:, 0]
    order = score_N.argsort(descending=True, stable=True).tolist()
    best = [found[known[n]]._replace(score=float(score_N[n])) for n in order]
    return best + [item for n, item in enumerate(found) if index[n] < 0]

from pathlib import Path

import numpy as np
import pytest

from gistrec.errors import ConfigError
from gistrec.events import read
from gistrec.events.synthetic import (
    FAVOURITES,
    INTEREST,
    JITTER,
    STAPLE_PERIODS,
    TRANSITION,
    Person,
    Synthetic,
    World,
)
from gistrec.testing.events import EventsTests


class TestSynthetic(EventsTests):
    # a change of these makes results on older logs incomparable
    expected = [(0, 7, 1601881647, 2), (0, 30, 1601881919, 2), (0, 40, 1601883061, 1)]
    num_events = 60

    def source(self, folder: Path):
        return Synthetic(users=3, items=60, length=20, seed=1)


def test_shares_of_the_components() -> None:
    events = read("synthetic(users=20, length=10000)")
    assert events.action is not None
    shares = np.bincount(events.action) / len(events)
    assert np.abs(shares - [0.13, 0.21, 0.52, 0.14]).max() < 0.01


def test_users_do_not_depend_on_how_many_there_are() -> None:
    few, many = read("synthetic(users=2, length=100)"), read("synthetic(users=5, length=100)")
    assert np.array_equal(few.item_id, many.item_id[:200])
    assert not np.array_equal(few.item_id[:100], few.item_id[100:])
    assert not np.array_equal(few.item_id, read("synthetic(users=2, length=100, seed=1)").item_id)


def test_each_component_does_what_it_says() -> None:
    source = Synthetic(length=20_000)
    world = source.world()
    person = source.person(0, world)
    item, component = person.item_id, person.component
    follows = component == 1
    successor = world.cycle_V[(world.place_V[item[:-1]] + 1) % source.items]
    assert np.array_equal(item[1:][follows[1:]], successor[follows[1:]])
    liked = person.favourites[person.topic]
    assert (liked == item[:, None]).any(axis=1)[component == 2].all()
    for staple, period in zip(person.staples, STAPLE_PERIODS, strict=True):
        gaps = np.diff(np.flatnonzero((item == staple) & (component == 3)))
        times = np.maximum(np.round(gaps / period), 1)  # another staple may have taken its place
        assert (np.abs(gaps / times - period) <= JITTER * period + 1).all()
        assert np.median(times) == 1
    returns = np.diff(np.flatnonzero(np.diff(np.flatnonzero(person.topic == 0)) > 1))
    assert returns.size >= 4


def test_returning_events_are_told_by_old_events_alone() -> None:
    source = Synthetic(length=12_000, items=2000)
    person = source.person(7, source.world())
    found = set(person.returning(2000, shown=3).tolist())
    assert len(found) > 100
    for event in range(source.length):
        visit = event
        while visit and person.topic[visit - 1] == person.topic[event]:
            visit -= 1
        item, component = person.item_id[event], person.component[event]
        met = np.flatnonzero(person.item_id[:event] == item)
        wanted = component == 2 and (person.component[visit:event] == 2).sum() >= 3
        assert (event in found) == (wanted and len(met) > 0 and event - met[-1] > 2000)


def ideal(person: Person, world: World, source: Synthetic, memory: int) -> tuple[float, float]:
    """HR@10 and NDCG@10 of one who knows the rules and the topic, and remembers `memory` events."""
    staple_of = {int(item): n for n, item in enumerate(person.staples)}
    places = [{int(item): n for n, item in enumerate(row)} for row in person.favourites]
    bought = np.full(len(STAPLE_PERIODS), -(10**9))
    seen = np.full(person.favourites.shape, -(10**9))
    ranks = []
    for now in range(source.length - 1):
        item, component = int(person.item_id[now]), person.component[now]
        if component == 3:
            bought[staple_of[item]] = now
        if component == 2:
            seen[person.topic[now], places[person.topic[now]][item]] = now
        then = now + 1
        if then < source.length // 2 or then % 5:
            continue
        gap = then - bought
        times = np.maximum(np.round(gap / STAPLE_PERIODS), 1)
        slack = STAPLE_PERIODS * JITTER * times**0.5
        left = STAPLE_PERIODS * times + slack - gap
        in_window = (left >= 0) & (left <= 2 * slack) & (gap <= memory)
        due = np.where(in_window, 1 / (np.maximum(left, 0) + 1), 0)
        rest = np.prod(1 - due)
        score_V = (1 - TRANSITION - INTEREST) * rest * world.popularity_V
        score_V[world.cycle_V[(world.place_V[item] + 1) % source.items]] += TRANSITION * rest
        topic = person.topic[then]
        known = person.favourites[topic][then - seen[topic] <= memory]
        score_V[known] += INTEREST * rest / FAVOURITES
        score_V[person.staples] += due
        ranks.append(np.count_nonzero(score_V > score_V[person.item_id[then]]))
    rank = np.array(ranks)
    return float((rank < 10).mean()), float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


@pytest.mark.parametrize(
    ("memory", "hr", "ndcg"), [(1, 0.27, 0.25), (100, 0.62, 0.42), (10_000, 0.84, 0.50)]
)
def test_what_a_memory_is_worth(memory: int, hr: float, ndcg: float) -> None:
    source = Synthetic()
    world = source.world()
    people = [source.person(user, world) for user in range(3)]
    reached = np.mean([ideal(person, world, source, memory) for person in people], axis=0)
    assert np.abs(reached - [hr, ndcg]).max() < 0.025  # the documented figures, 3,000 targets


@pytest.mark.parametrize("options", ["users=0", "length=0", "items=49", "seed=-1"])
def test_wrong_options(options: str) -> None:
    with pytest.raises(
        ConfigError, match=r"users and length must be at least 1, items at least 50"
    ):
        read(f"synthetic({options})")

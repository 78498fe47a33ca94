import collections

import numpy as np
import pytest

from gistrec.history_log import HistoryLog
from gistrec.recipe import Recipe
from gistrec.state_cache import StateCache
from gistrec.store_stats import _percentile, store_stats
from gistrec.stored_states import UNVERSIONED
from gistrec.stores import open_store
from gistrec.testing.data import sample_state

STATES = [sample_state(n) for n in (0, 1, 9, 60, 200)]


@pytest.fixture
def store():
    with open_store("ram://") as opened:
        yield opened


def caches(store):
    specs = "identity()", "int8()"
    return [StateCache(Recipe.fit(s, STATES, model=STATES[0].model), store) for s in specs]


def test_an_empty_store(store):
    found = store_stats(store)
    assert found == ((0, 0, 0.0, 0.0), [])
    assert found.log.projected(1000) == 0


def test_users_and_bytes_by_version(store):
    one, other = caches(store)
    log, sizes, logged = HistoryLog(store), {one: [], other: []}, []
    for n in range(300):
        log.append(f"u{n}", list(range(n + 1)), [n] * (n + 1), event_ids=["e"] + [None] * n)
        logged.append(log.nbytes(f"u{n}"))
        for cache in (one, other)[: 1 + n % 2]:
            sizes[cache].append(cache.save(f"u{n}", STATES[n % 5]).stored_bytes)
    store.put("s/old", b"12345")
    counted = []
    found = store_stats(store, report=counted.append)
    assert sum(counted) == 300 + 150 + 1 + 300
    assert found.log[:2] == (300, sum(logged))
    assert found.log[2:] == (np.percentile(logged, 50), np.percentile(logged, 99))
    by_name = {v.version: v for v in found.versions}
    assert by_name.keys() == {one.version, other.version, UNVERSIONED}
    for cache, stored in sizes.items():
        version = by_name[cache.version]
        assert (version.codec, version.model) == (cache.described.codec, cache.described.model)
        assert version.states[:2] == (len(stored), sum(stored))
        assert version.states[3] == pytest.approx(np.percentile(stored, 99))
    assert by_name[UNVERSIONED].states.bytes_total == 5
    assert by_name[one.version].states.projected(3000) == 10 * sum(sizes[one])


def test_a_damaged_head_is_counted_as_it_is(store):
    store.put("h/u", b"rubbish")
    assert store_stats(store).log == (1, 7, 7.0, 7.0)


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
def test_percentiles_of_counted_sizes(percent):
    sizes = np.random.default_rng(0).integers(0, 50, 400)
    found = _percentile(collections.Counter(sizes.tolist()), percent)
    assert found == pytest.approx(np.percentile(sizes, percent))

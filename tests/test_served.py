import random

import pytest

from gistrec.errors import CorruptStateError, FormatVersionError, StateError
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import train

START = 1_600_000_000


@pytest.fixture(scope="module")
def model():
    return train(stride_dataset(), "hstu(width=8)", epochs=1, batch_tokens=240)


def opened(model, spec):
    dataset = stride_dataset()
    histories = [dataset.history(n)[:m] for n, m in enumerate([0, 1, 2, 9, 24])]
    states = model.backbone.prefill(histories, hints=True)
    recipe = Recipe.fit(spec, states, model=model.backbone.fingerprint())
    return Recommender(model, recipe, open_store("ram://"))


def observed(recommender, length, last):
    """A user with so many events, of which the last ones came later."""
    events = [Event(n * 7 % 30, START + 60 * n) for n in range(length)]
    recommender.observe("u", events[:-last])
    recommender.observe("u", events[-last:])
    return recommender.recommend("u")


def damaged(blob):
    """Every byte changed in turn, every truncation, and bytes of chance."""
    rng = random.Random(0)
    for place in range(len(blob)):
        for damage in (1, 0x80, 0xFF):
            yield blob[:place] + bytes([blob[place] ^ damage]) + blob[place + 1 :]
    yield from (blob[:length] for length in range(len(blob)))
    yield from (rng.randbytes(rng.randrange(2 * len(blob))) for _ in range(100))
    yield blob + b"\0"


def test_a_state_damaged_anywhere_is_rebuilt_with_the_same_answer_and_counted(model):
    with opened(model, "recent(keep=2, sink=0) | int8()") as recommender:
        observed(recommender, 12, 1)
        recommender.states.forget("u")
        # a state that evicted event by event is a little another one: that is its drift
        answer = recommender.recommend("u")
        (key,) = recommender.store.keys("s")
        blob = recommender.store.get(key).blob
        counts, bad_blobs = recommender.counts, list(damaged(blob))
        counts.clear()
        for bad in bad_blobs:
            recommender.store.put(key, bad)
            assert recommender.recommend("u") == answer
        tries = len(bad_blobs)
        assert counts["corrupt"] + counts["stale"] + counts["missing"] == tries
        # a changed first byte is another format version's, or the mark of a tail without a block
        assert counts["corrupt"] > 4 * counts["stale"] > 4 * counts["missing"] > 0
        recommender.store.put(key, blob)
        assert recommender.recommend("u") == answer


def test_every_damage_of_a_large_state_is_an_error_and_a_rebuild(model):
    with opened(model, "identity()") as recommender:
        answer = observed(recommender, 60, 2)
        states = recommender.states
        keys = [*recommender.store.keys("s"), *recommender.store.keys("q")]
        assert len(keys) == 2
        good = [entry.blob for entry in recommender.store.get_many(keys)]
        for key, blob in zip(keys, good, strict=True):
            for n, bad in enumerate(damaged(blob)):
                recommender.store.put(key, bad)
                with pytest.raises(StateError):
                    states.load("u")
                if n % 500 == 0:
                    before = recommender.counts["corrupt"] + recommender.counts["stale"]
                    assert [s.item_id for s in recommender.recommend("u")] == [
                        s.item_id for s in answer
                    ]
                    after = recommender.counts["corrupt"] + recommender.counts["stale"]
                    assert after == before + 1
                    for k, b in zip(keys, good, strict=True):
                        recommender.store.put(k, b)
            recommender.store.put(key, blob)
        assert recommender.recommend("u") == answer


def test_a_damaged_history_is_a_named_error_and_never_a_wrong_answer(model):
    with opened(model, "recent(keep=2, sink=0) | int8()") as recommender:
        answer = observed(recommender, 150, 1)
        recommender.states.forget("u")
        for key in [*recommender.store.keys("h/"), *recommender.store.keys("b/")]:
            blob = recommender.store.get(key).blob
            for bad in damaged(blob):
                recommender.store.put(key, bad)
                with pytest.raises((CorruptStateError, FormatVersionError), match="history of"):
                    recommender.recommend("u")
            recommender.store.put(key, blob)
        assert recommender.states.read("u").entry is None
        assert [s.item_id for s in recommender.recommend("u")] == [s.item_id for s in answer]

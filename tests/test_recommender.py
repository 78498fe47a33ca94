import msgspec
import numpy as np
import pytest
import torch

from gistrec.dataset import Dataset
from gistrec.errors import BusyError, ConfigError, ConflictError, DataError, StaleStateError
from gistrec.events import Events
from gistrec.rebuilds import RebuildLimits
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.served import Served, Watch
from gistrec.store_settings import KEY
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, train

START = 1_600_000_000


@pytest.fixture(scope="module")
def model() -> Model:
    return train(
        stride_dataset(), "hstu(width=16)", epochs=12, batch_tokens=240, learning_rate=0.02
    )


@pytest.fixture
def recommender(model):
    with Recommender(model, identity_recipe(model), open_store("ram://")) as made:
        yield made


def walk(start: int, steps: int, stride: int = 1) -> list[Event]:
    return [Event((start + j * stride) % 30, START + j * 3600) for j in range(steps)]


def ids(scored):
    return [s.item_id for s in scored]


def scores(scored):
    return {s.item_id: s.score for s in scored}


def test_one_event_at_a_time_equals_the_whole_history(model, recommender):
    events = walk(4, 12)
    for event in events:
        recommender.observe("slow", [event])
    recommender.observe("fast", events)
    slow, fast = (recommender.recommend(u, k=30) for u in ("slow", "fast"))
    assert ids(slow) == ids(fast)
    np.testing.assert_allclose([s.score for s in slow], [s.score for s in fast], atol=1e-3)
    assert ids(fast)[0] == 16  # the stride goes on


def test_seen_items_are_left_out_unless_asked_for(recommender):
    recommender.observe("u", walk(0, 6))
    assert not {0, 1, 2, 3, 4, 5} & set(ids(recommender.recommend("u", k=30)))
    assert len(recommender.recommend("u", k=100)) == 24
    assert len(recommender.recommend("u", k=100, exclude_seen=False)) == 30


def test_a_basket_model_keeps_seen_items():
    dataset = stride_dataset()
    made = train(dataset, "hstu(width=16)", epochs=1, batch_tokens=240, scheme="last_basket")
    with Recommender(made, identity_recipe(made), open_store("ram://")) as recommender:
        recommender.observe("u", walk(0, 6))
        assert len(recommender.recommend("u", k=100)) == 30


def test_rank_orders_candidates_by_the_scores_of_recommend(recommender):
    recommender.observe("u", walk(3, 9))
    all_scores = scores(recommender.recommend("u", k=30, exclude_seen=False))
    ranked = recommender.rank("u", [7, 12, 7, 29])
    assert sorted(ids(ranked)) == [7, 7, 12, 29]
    values = [s.score for s in ranked]
    assert values == sorted(values, reverse=True)
    for s in ranked:
        assert s.score == pytest.approx(all_scores[s.item_id], abs=1e-3)
    assert recommender.rank("u", []) == []
    with pytest.raises(DataError, match="item 777 is not in the model's catalogue of 30 items"):
        recommender.rank("u", [1, 777])


def test_a_stranger_gets_popular_items(recommender):
    assert len(recommender.recommend("nobody", k=5)) == 5
    assert recommender.describe("nobody") is None
    assert recommender.stats().users == 0


def test_forget_erases_log_and_state(recommender):
    recommender.observe("u", walk(0, 5))
    assert recommender.forget("u")
    assert not recommender.forget("u")
    assert recommender.describe("u") is None
    assert list(recommender.store.keys()) == [KEY]


def test_a_lost_state_is_rebuilt_from_the_log(recommender):
    recommender.observe("u", walk(0, 10))
    before = recommender.recommend("u")
    recommender.states.forget("u")
    assert recommender.recommend("u") == before
    assert recommender.counts["missing"] >= 1


def test_a_damaged_state_is_rebuilt_from_the_log(recommender):
    recommender.observe("u", walk(0, 10))
    before = recommender.recommend("u")
    (key,) = recommender.store.keys("s")
    blob = bytearray(recommender.store.get(key).blob)
    blob[len(blob) // 2] ^= 255
    recommender.store.put(key, bytes(blob))
    assert recommender.recommend("u") == before
    assert recommender.counts["corrupt"] == 1
    assert recommender.recommend("u") == before
    assert recommender.counts["corrupt"] == 1


def test_a_state_behind_the_log_is_replayed(recommender):
    events = walk(0, 10)
    recommender.observe("whole", events)
    recommender.observe("u", events[:6])
    # as if the process had died between writing the log and the state
    recommender.log.append("u", [e.item_id for e in events[6:]], [e.timestamp for e in events[6:]])
    assert ids(recommender.recommend("u")) == ids(recommender.recommend("whole"))
    assert recommender.counts["replayed"] == 1


@pytest.fixture(scope="module")
def other() -> Model:
    return train(stride_dataset(), "hstu(width=8)", epochs=1, batch_tokens=240)


def test_two_models_on_one_store_leave_each_others_states(model, other, tmp_path):
    url = f"lmdb://{tmp_path}/store"
    old = Recommender(model, identity_recipe(model), open_store(url))
    new = Recommender(other, identity_recipe(other), open_store(url))
    with old, new:
        old.observe("u", walk(0, 10))
        for _ in range(3):
            assert len(new.recommend("u")) == len(old.recommend("u")) == 10
        assert new.describe("u").model == other.backbone.fingerprint()
        assert (new.counts["missing"], new.counts["fresh"]) == (1, 3)
        assert old.counts["missing"] == 1  # at the first event
        new.observe("u", walk(10, 1))
        old.recommend("u")
        assert old.counts["replayed"] == 1
        assert old.forget("u")
        assert list(old.store.keys()) == [KEY]


def test_the_version_that_serves_is_switched_while_running(model, other, caplog):
    pairs = [(made, identity_recipe(made)) for made in (model, other)]
    with Recommender(*pairs[0], open_store("ram://"), standby=pairs[1:]) as recommender:
        first, second = recommender.versions

        def serve(version):
            recommender.settings.change(lambda s: msgspec.structs.replace(s, serving=version))
            return recommender.served.version

        recommender.observe("u", walk(0, 10))
        before = recommender.recommend("u")
        assert recommender.describe("u").model == model.backbone.fingerprint()
        assert serve(second) == second
        assert recommender.recommend("u") != before
        assert recommender.describe("u").model == other.backbone.fingerprint()
        recommender.observe("u", walk(10, 1))
        assert serve(first) == first
        assert recommender.describe("u").covered == 11
        assert serve("unknown0") == first
        assert "asks for version unknown0" in caplog.text
        assert recommender.forget("u")
        assert list(recommender.store.keys()) == [KEY]


def test_long_rebuilds_wait_for_each_other_or_are_refused(recommender):
    recommender.observe("u", walk(0, 10))
    recommender.observe("v", walk(0, 2))
    before = recommender.recommend("u")
    for user in "uv":
        recommender.states.forget(user)
    rebuilds = recommender.rebuilds
    rebuilds.limits = RebuildLimits(at_once=1, waiting=0, long_events=5)
    with rebuilds.turn(5):
        with pytest.raises(BusyError, match=r"10 events must be rebuilt.*gistrec state build"):
            recommender.recommend("u")
        assert len(recommender.recommend("v")) == 10  # a short one
        assert recommender.observe("u", walk(10, 1)).length == 11  # safe, without a state
    assert rebuilds.refused == recommender.counts["refused"] == 2
    recommender.observe("w", walk(0, 10))
    recommender.observe("w", walk(10, 1))
    assert recommender.recommend("u") != before
    assert recommender.recommend("u") == recommender.recommend("w")


def test_the_model_that_the_store_knows_longest_is_rebuilt_first(model, other, monkeypatch):
    pairs = [(made, identity_recipe(made)) for made in (model, other)]
    limits = RebuildLimits(long_events=5)
    asked = []
    with Recommender(*pairs[1], open_store("ram://"), rebuilds=limits) as recommender:
        recommender.observe("u", walk(0, 10))
        new = Served(
            *pairs[0], recommender.store, recommender.settings, Watch(), recommender.rebuilds
        )
        turn = recommender.rebuilds.turn

        def watched(num_events, *, model, wait):
            asked.append((num_events, model, wait))
            return turn(num_events, model=model, wait=wait)

        monkeypatch.setattr(recommender.rebuilds, "turn", watched)
        new.current("u")
        recommender.states.forget("u")
        recommender.served.current("u", wait=False)
        new.states.forget("u")
        new.current("u")
    assert asked == [(10, 1, True), (10, 0, False), (10, 1, True)]


def test_unknown_items_are_logged_and_skipped_by_the_model(recommender):
    events = walk(0, 8)
    recommender.observe("plain", events)
    recommender.observe("mixed", [*events[:4], Event(999, START + 4 * 3600), *events[4:]])
    assert recommender.describe("mixed").length == recommender.describe("mixed").covered == 9
    assert ids(recommender.recommend("mixed")) == ids(recommender.recommend("plain"))
    recommender.observe("only", [Event(999, START)])
    assert len(recommender.recommend("only")) == 10


def test_late_events_are_logged_as_they_are_and_seen_at_the_newest_time(recommender):
    events = walk(0, 5)
    late = Event(20, START - 1000)
    recommender.observe("late", [*events, late])
    recommender.observe("clamped", [*events, late._replace(timestamp=events[-1].timestamp)])
    assert recommender.log.read("late").timestamp.tolist()[-1] == START - 1000
    assert scores(recommender.recommend("late")) == scores(recommender.recommend("clamped"))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("7", START), "item_id is '7'; this model's items have whole numbers"),
        (Event(7, -1), "timestamp is -1"),
        (Event(7, 1.5), "timestamp is 1.5"),
        (Event(7, START, 256), "action is 256; allowed: 0 to 255"),
    ],
)
def test_a_wrong_event_logs_nothing_of_its_call(recommender, event, message):
    with pytest.raises(DataError, match=message):
        recommender.observe("u", [Event(1, START), event])
    assert recommender.describe("u") is None


def test_wrong_calls_say_what_is_allowed(recommender):
    with pytest.raises(DataError, match="no event given"):
        recommender.observe("u", [])
    with pytest.raises(ConfigError, match="k must be at least 1, given 0"):
        recommender.recommend("u", k=0)


def test_save_and_load_with_a_compressed_recipe(model, tmp_path):
    dataset = stride_dataset()
    states = model.backbone.prefill(
        [dataset.history(n)[:m] for n, m in enumerate([0, 1, 2, 9, 24])]
    )
    fingerprint = model.backbone.fingerprint()
    recipe = Recipe.fit("recent(keep=6) | int8() | zstd()", states, model=fingerprint)
    made = Recommender(model, recipe, open_store("ram://"))
    made.save(tmp_path)
    loaded = Recommender.load(tmp_path)
    for each in (made, loaded):
        each.observe("u", walk(2, 15))
    assert made.recommend("u") == loaded.recommend("u")
    report = loaded.describe("u")
    assert (report.slots, report.length) == (6, 15)
    assert report.codec.startswith("recent(keep=6, sink=4) | int8() | zstd(")

    other = train(dataset, "hstu(width=8)", epochs=1, batch_tokens=240)
    other.save(tmp_path)
    with pytest.raises(StaleStateError, match="fitted for model"):
        Recommender.load(tmp_path)


def test_text_ids():
    events = stride_dataset()
    names = np.array([f"sku-{i:02}" for i in range(30)], dtype=object)
    user = np.repeat(np.arange(40), 24)
    log = Events(user, names[events.item_index], events.timestamp, titles={"sku-07": "Oat milk"})
    made = train(Dataset.from_events(log), "hstu(width=16)", epochs=1, batch_tokens=240)
    with Recommender(made, identity_recipe(made), open_store("ram://")) as recommender:
        recommender.observe("u", [Event("sku-03", START), Event("sku-04", START + 3600)])
        titles = {s.item_id: s.title for s in recommender.recommend("u", k=30)}
        assert titles["sku-07"] == "Oat milk"
        assert titles["sku-08"] == "sku-08"
        with pytest.raises(DataError, match="have texts as ids"):
            recommender.observe("u", [Event(3, START)])


def test_writers_of_the_same_user_lose_nothing(model):
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(1)
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(lambda n: recommender.observe("u", [Event(n % 30, START + n)]), range(40))
            )
        assert recommender.describe("u").length == 40
        assert sorted(recommender.log.read("u").timestamp.tolist()) == [
            START + n for n in range(40)
        ]


def test_an_observation_may_be_repeated(recommender):
    events = walk(0, 3)
    named = [event._replace(event_id=f"e{n}") for n, event in enumerate(events)]
    assert recommender.observe("u", named).length == 3
    assert recommender.observe("u", named[1:] + walk(3, 1)).length == 4
    for _ in range(2):
        assert recommender.observe("u", events, expected_length=4).length == 7
    with pytest.raises(ConflictError, match="expected were 2"):
        recommender.observe("u", events, expected_length=2)
    assert recommender.describe("u").covered == 7


def test_stages_are_told_with_their_seconds(recommender):
    told = []
    recommender.on_stage = lambda stage, seconds: told.append((stage, seconds))

    def stages():
        names = [stage for stage, _ in told]
        assert all(seconds >= 0 for _, seconds in told)
        told.clear()
        return names

    if recommender.served.direct:
        recommender.observe("u", walk(0, 5))
        assert stages() == ["store", "load", "decode", "load", "compute", "store"]
        recommender.observe("u", walk(5, 1))
        assert stages() == ["compute", "store"]
        recommender.recommend("u")
        assert stages() == ["load", "load", "compute"]
        recommender.rank("u", [7])
        assert stages() == ["load", "compute"]
    recommender.served.direct = None
    recommender.observe("u", walk(6, 5))
    assert stages() == ["store", "load", "decode", "load", "compute", "store"]
    recommender.recommend("u")
    assert stages() == ["load", "load", "load", "decode", "compute"]
    recommender.rank("u", [7])
    assert stages() == ["load", "load", "decode", "compute"]
    with pytest.raises(DataError):
        recommender.observe("u", [Event("7", START)])
    assert stages() == []


def test_what_is_logged_while_a_state_is_brought_up_counts_once(recommender):
    recommender.observe("u", walk(0, 3))
    served = recommender.served
    find, more = served.find, walk(3, 2)

    def grown(user_id):
        found = find(user_id)
        served.find = find
        recommender.log.append(user_id, [e.item_id for e in more], [e.timestamp for e in more])
        return found

    recommender.states.forget("u")
    served.find = grown
    recommender.rank("u", [7])
    recommender.observe("v", walk(0, 5))
    assert recommender.describe("u").slots == recommender.describe("v").slots


def test_a_user_who_is_forgotten_while_the_state_is_rebuilt_stays_forgotten(
    recommender, monkeypatch
):
    recommender.observe("u", walk(0, 6))
    recommender.states.forget("u")
    save, states = recommender.states.save, recommender.states

    def late(*args, **options):
        monkeypatch.setattr(states, "save", save)
        assert recommender.forget("u")
        return save(*args, **options)

    monkeypatch.setattr(states, "save", late)
    assert recommender.recommend("u", k=3)  # asked for before
    assert recommender.sizes("u") == (0, 0, 0)
    assert list(recommender.store.keys()) == [KEY]


def test_a_user_who_is_forgotten_while_the_state_grows_stays_forgotten(recommender, monkeypatch):
    recommender.served.direct = None
    recommender.observe("u", walk(0, 6))
    save, states = recommender.states.save, recommender.states

    def late(*args, **options):
        monkeypatch.setattr(states, "save", save)
        assert recommender.forget("u")
        return save(*args, **options)

    monkeypatch.setattr(states, "save", late)
    recommender.observe("u", walk(6, 1))
    assert recommender.sizes("u") == (0, 0, 0)


def test_a_user_who_is_forgotten_while_an_event_is_written_begins_anew(recommender, monkeypatch):
    recommender.observe("u", walk(0, 6))
    grown, states = recommender.states.grown, recommender.states

    def late(*args, **options):
        monkeypatch.setattr(states, "grown", grown)
        assert recommender.forget("u")
        return grown(*args, **options)

    monkeypatch.setattr(states, "grown", late)
    recommender.observe("u", walk(6, 1))
    report = recommender.describe("u")
    if recommender.served.direct:  # else nothing was forgotten
        assert (report.length, report.covered, report.slots) == (1, 1, 0)


def test_states_are_read_and_grown_as_they_are_stored(recommender, monkeypatch):
    """And are what they are the long way."""
    if not recommender.served.direct:
        pytest.skip("the compiled core is not in use")
    recommender.observe("u", walk(0, 6))
    decode, decoded = recommender.states.decode, []
    monkeypatch.setattr(recommender.states, "decode", lambda *a: decoded.append(a) or decode(*a))
    observed = recommender.observe("u", walk(6, 1))
    listed, ranked = recommender.recommend("u"), recommender.rank("u", [3, 9, 3])
    assert not decoded
    assert observed == recommender.sizes("u")
    assert recommender.counts["fresh"] == 2
    recommender.served.direct = None
    assert recommender.describe("u").covered == 7
    for found, wanted in (
        (listed, recommender.recommend("u")),
        (ranked, recommender.rank("u", [3, 9, 3])),
    ):
        assert [s.item_id for s in found] == [s.item_id for s in wanted]
        np.testing.assert_allclose([s.score for s in found], [s.score for s in wanted], rtol=1e-4)
    assert decoded

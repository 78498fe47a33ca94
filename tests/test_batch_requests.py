from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gistrec import backbones, batch_requests
from gistrec.batch_requests import Candidates, NewEvents, observe_many, rank_many
from gistrec.errors import ConflictError, DataError, StoreUnavailableError
from gistrec.recommender import Event, Observed, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.testing.faulty import Flaky
from gistrec.train import Model, Training

USERS = [f"u{n}" for n in range(20)]


def recommender_on(store: str) -> Recommender:
    dataset = stride_dataset()
    backbone = backbones.build("hstu(width=16)", num_items=dataset.num_items)
    model = Model(backbone.eval(), dataset.items, Training())
    return Recommender(model, identity_recipe(model), open_store(store))


@pytest.fixture
def recommender() -> Iterator[Recommender]:
    with recommender_on("ram://") as recommender:
        for n, user in enumerate(USERS):
            events = [Event((n + j) % 30, 1_600_000_000 + 100 * j) for j in range(n)]
            if events:
                recommender.observe(user, events)
        yield recommender


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def requests() -> list[Candidates]:
    """Other candidates for every user, some of them twice, and other times."""
    return [
        Candidates(user, [n % 30, 29, 5, 5, *range(n)], 1_700_000_000 if n % 3 else None)
        for n, user in enumerate(USERS)
    ]


@pytest.mark.parametrize("scores", [1, 200, 1 << 18], ids=lambda n: f"{n} scores a call")
@pytest.mark.parametrize("users", [1, 7, 32], ids=lambda n: f"{n} users a call")
def test_many_are_ranked_as_one_by_one(recommender, monkeypatch, scores: int, users: int):
    monkeypatch.setattr(batch_requests, "_SCORES_PER_CALL", scores)
    monkeypatch.setattr(batch_requests, "_USERS_PER_CALL", users)
    for request, found in zip(requests(), rank_many(recommender, requests()), strict=True):
        expected = recommender.rank(request.user_id, request.item_ids, at=request.at)
        assert [s.item_id for s in found] == [s.item_id for s in expected]
        assert [s.score for s in found] == pytest.approx([s.score for s in expected], abs=1e-5)


def test_the_model_is_called_once_for_many(recommender, monkeypatch):
    calls = []
    score = recommender.backbone.score
    monkeypatch.setattr(
        recommender.backbone, "score", lambda states, *a, **k: calls.append(len(states)) or
        score(states, *a, **k),
    )  # fmt: skip
    rank_many(recommender, requests())
    assert calls == [20]


def test_each_user_gets_an_answer_or_an_error(recommender):
    asked = [Candidates("u3", [1, 2]), Candidates("u4", [1, 99]), Candidates("x" * 257, [1])]
    asked += [Candidates("u5", []), Candidates("nobody", [3])]
    first, second, third, fourth, fifth = rank_many(recommender, asked)
    assert first == recommender.rank("u3", [1, 2])
    assert isinstance(second, DataError)
    assert "item 99 is not in the model's catalogue" in str(second)
    assert isinstance(third, DataError)
    assert fourth == []
    assert [s.item_id for s in fifth] == [3]


def test_what_the_model_can_not_do_is_every_users_error(recommender, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(recommender.backbone, "score", fail)
    assert {type(found) for found in rank_many(recommender, requests())} == {RuntimeError}


def test_many_are_observed(recommender, threads):
    asked = [NewEvents(user, [Event(1, 1_700_000_000)], n) for n, user in enumerate(USERS)]
    asked[7] = NewEvents("u7", [Event(1, 1_700_000_000)], 3)
    asked[8] = NewEvents("u8", [])
    found = observe_many(recommender, asked, threads)
    assert isinstance(found[7], ConflictError)
    assert isinstance(found[8], DataError)
    for n, one in enumerate(found):
        if n not in (7, 8):
            assert isinstance(one, Observed)
            assert one == recommender.sizes(f"u{n}")
            assert one.length == n + 1
    assert recommender.sizes("u7").length == 7


def test_what_failed_can_be_repeated(threads):
    with recommender_on("ram://many") as quiet:
        recommender = Recommender(
            quiet.model, quiet.recipe, Flaky(open_store("ram://many"), rate=0.2)
        )
        left = [NewEvents(user, [Event(1, 5, None, "once")]) for user in USERS]
        for _ in range(100):
            found = observe_many(recommender, left, threads)
            assert all(isinstance(f, Observed | StoreUnavailableError) for f in found)
            left = [r for r, f in zip(left, found, strict=True) if isinstance(f, Exception)]
            if not left:
                break
        assert not left
        assert {quiet.sizes(user).length for user in USERS} == {1}

"""The benchmark on a tiny model: rows are complete, consistent with each other, and resumable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gistrec import backbones, results, store_settings
from gistrec.benchmark import Rules, Trial, code_digest, has_dial, run
from gistrec.codecs import parse
from gistrec.dataset import Dataset
from gistrec.errors import ConfigError, DataError
from gistrec.measure import Subject
from gistrec.results import Row
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, Training

RULES = Rules(online_users=6, online_events=5, fit_users=12, requests=2)
QUICK = Rules(online_users=0, fit_users=12, requests=0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return stride_dataset(users=60, items=110, length=20)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> Model:
    torch.manual_seed(0)
    backbone = backbones.build("hstu(width=16, num_layers=2)", num_items=dataset.num_items)
    return Model(backbone.eval(), dataset.items, Training())


@pytest.fixture(scope="module")
def rows(model: Model, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    out = tmp_path_factory.mktemp("bench") / "rows.jsonl"
    recipes = ["recent(keep=4, sink=0) | int8()", "recent(keep=64, sink=0)", "bf16()"]
    got = run(model, dataset, out, data="stride", recipes=recipes, budgets=[250, 5000], rules=RULES)
    assert [json.loads(json.dumps(row)) for row in results.load(out)] == results.load(out)
    assert len(results.load(out)) == len(got)
    return got


def pick(rows: list[Row], **wanted: Any) -> Row:
    (row,) = [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    return row


def test_references_are_always_there(rows: list[Row]) -> None:
    assert [r["kind"] for r in rows][:6] == ["baseline"] * 4 + ["recompute", "identity"]
    assert {r["backbone"] for r in rows if r["kind"] == "baseline"} == {
        "popularity",
        "own_frequent",
        "last_transition",
        "recent_transitions",
    }


def test_storing_everything_is_as_good_as_recomputing(rows: list[Row]) -> None:
    recompute, identity = pick(rows, kind="recompute"), pick(rows, kind="identity")
    assert identity["ndcg_10"] == recompute["ndcg_10"]
    assert identity["overlap_10"] == 1
    # the tensors of 20 - 1 - 1 slots (2 layers, k and v, fp32, a time), and a few bytes about them
    slots, width = 18, 16
    assert identity["full_bytes"] == slots * (2 * 2 * width * 4 + 8) + 2 * 8
    assert slots * 2 * 2 * width * 4 < identity["state_bytes"] < identity["full_bytes"] + 40
    assert recompute["state_bytes"] == 0
    assert recompute["bytes_per_user"] == recompute["log_bytes"] == identity["log_bytes"] > 0


def test_every_row_has_the_fields_of_the_rules(rows: list[Row]) -> None:
    always = """data split backbone codec budget_bytes seed online ndcg_10 hr_10 auc gauc logloss
        interval by_length bytes_per_user log_bytes state_bytes shared_bytes kept_fraction memory
        append_ms_p50 append_ms_p99 rank_ms_p50 rank_ms_p99 recommend_ms_p50 recommend_ms_p99
        train_seconds commit machine versions date recall_10 overlap_10 request_time users"""
    for row in rows:
        if row["kind"] in ("recipe", "identity"):
            assert set(always.split()) <= row.keys()
            assert row["bytes_per_user"] == row["state_bytes"] + row["log_bytes"]
            assert row["kept_fraction"] == row["state_bytes"] / row["full_bytes"]
            assert sum(row["state_parts"].values()) == pytest.approx(row["state_bytes"], rel=0.02)
            assert row["interval"][0] <= row["ndcg_10"] <= row["interval"][1]
            assert row["append_ms_p50"] <= row["append_ms_p99"]
            assert "rank_1000_ms_p50" not in row  # the catalogue is smaller than that


def test_budgets_are_kept_by_measured_bytes(
    rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    dialled = [r for r in rows if r["budget_bytes"] is not None and not r["online"]]
    assert {(r["recipe"], r["budget_bytes"]) for r in dialled} == {
        ("recent(keep=4, sink=0) | int8()", 250),
        ("recent(keep=4, sink=0) | int8()", 5000),
        ("recent(keep=64, sink=0)", 5000),  # one uncompressed slot takes more than 250 bytes
    }
    assert all(r["state_bytes"] <= r["budget_bytes"] for r in dialled)
    assert pick(rows, codec="bf16()", online=False)["budget_bytes"] is None
    small, large = (r for r in dialled if "int8" in r["recipe"])
    assert small["state_bytes"] > 125  # as many slots as fit: one takes about 90 bytes
    assert large["state_bytes"] > small["state_bytes"]


def test_a_recipe_that_can_not_reach_a_budget_is_named(
    model: Model, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        model,
        dataset,
        tmp_path / "r",
        data="d",
        recipes=["recent(keep=9)"],
        budgets=[50],
        rules=QUICK,
    )
    assert "left out: recent(keep=9, sink=4) at 50 B" in capsys.readouterr().err


def test_online_is_compared_on_the_same_users(rows: list[Row]) -> None:
    online = pick(rows, codec="bf16()", online=True)
    assert online["users"] == 6
    low, high = online["drift_interval"]
    assert low <= online["drift"] <= high
    assert not any(r["online"] for r in rows if r["kind"] != "recipe")


def test_what_loses_nothing_does_not_drift(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    rules = Rules(online_users=5, online_events=None, fit_users=5, requests=0)
    got = run(
        model, dataset, tmp_path / "r", data="d", recipes=["recent(keep=999, sink=0)"], rules=rules
    )
    online = pick(got, online=True)
    assert online["drift"] == 0
    assert online["overlap_10"] == 1


def test_a_killed_run_continues_where_it_was(
    model: Model, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"

    def again() -> list[Row]:
        return run(model, dataset, out, data="d", recipes=["int8()"], rules=QUICK)

    first = again()
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(first) == 7
    assert [r["trial"] for r in again()] == [r["trial"] for r in first]
    assert out.read_bytes() == b"".join(lines)  # nothing was measured again

    out.write_bytes(b"".join(lines)[:-20])  # killed while writing the last row
    second = again()
    assert len(out.read_bytes().splitlines()) == 8  # the torn line stays, its row follows
    assert [r["trial"] for r in results.load(out)] == [r["trial"] for r in first]
    assert second[-1]["ndcg_10"] == first[-1]["ndcg_10"]
    assert second[-1]["state_bytes"] == first[-1]["state_bytes"]


def test_a_sample_of_users_is_stated_and_fitted_on_others(
    model: Model, dataset: Dataset, tmp_path: Path
) -> None:
    rules = Rules(users=10, online_users=0, fit_users=15, requests=0)
    got = run(model, dataset, tmp_path / "r", data="d", recipes=["int8()"], rules=rules)
    assert {r["users"] for r in got} == {10}
    assert {r["rules"]["users"] for r in got} == {10}


def test_timing_leaves_no_user_in_a_store_that_lasts(
    model: Model, dataset: Dataset, tmp_path: Path
) -> None:
    url = f"lmdb://{tmp_path / 'store'}"
    rules = Rules(users=4, online_users=0, fit_users=5, requests=1, store=url)
    got = run(model, dataset, tmp_path / "r", data="d", recipes=["int8()"], rules=rules)
    assert all(r["append_ms_p50"] > 0 for r in got if r["kind"] != "baseline")
    with open_store(url) as store:
        assert list(store.keys()) == [store_settings.KEY]  # which versions had states


def test_trials_differ_by_anything_that_matters() -> None:
    trial = Trial(
        kind="recipe", data="d", split="s", backbone="b", rules=RULES, code="c", recipe="int8()"
    )
    others: list[Callable[[], Trial]] = [
        lambda: Trial(**{**vars(trial), "recipe": "bf16()"}),
        lambda: Trial(**{**vars(trial), "budget_bytes": 64}),
        lambda: Trial(**{**vars(trial), "online": True}),
        lambda: Trial(**{**vars(trial), "model": "m"}),
        lambda: Trial(**{**vars(trial), "rules": QUICK}),
        lambda: Trial(**{**vars(trial), "code": "d"}),
    ]
    assert len({trial.key, *(other().key for other in others)}) == 7
    assert trial.key == Trial(**vars(trial)).key
    digests = [code_digest(frozenset(names)) for names in ((), ("recent",), ("recent", "int8"))]
    assert len(set(digests)) == 3
    assert {len(digest) for digest in digests} == {8}


def test_only_recipes_with_a_dial_are_turned() -> None:
    assert has_dial(parse("recent(keep=8) | int8()"))
    assert not has_dial(parse("int8() | zstd()"))


def test_a_log_of_other_items_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="101 items are not the log's 30"):
        run(model, stride_dataset(), tmp_path / "r", data="d", recipes=[], rules=QUICK)


@pytest.mark.parametrize("wrong", [{"users": 0}, {"online_events": 0}, {"requests": -1}])
def test_wrong_rules_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be at least"):
        Rules(**wrong)  # type: ignore[arg-type]


def test_baselines_are_those_of_the_data(rows: list[Row], dataset: Dataset) -> None:
    row = pick(rows, backbone="popularity")
    counts = np.bincount(dataset.item_index[np.arange(len(dataset.item_index)) % 20 != 19])
    hits = 0
    for user in range(dataset.num_users):
        history = dataset.history(user).item_index
        left = np.where(
            np.isin(np.arange(dataset.num_items), history[:-1]),
            -1,
            np.pad(counts, (0, dataset.num_items - len(counts))),
        )
        hits += history[-1] in np.argsort(-left, kind="stable")[:10]
    assert row["hr_10"] == pytest.approx(hits / dataset.num_users)


def test_recipes_are_fitted_on_all_items_of_the_histories(model: Model, dataset: Dataset) -> None:
    subject = Subject(model, dataset, Rules(fit_users=1, requests=0))
    states = subject.fit_states + subject.item_states
    fitted = np.concatenate([state.tensors["hint.item"].numpy() for state in states])
    # a history's last event waits in the tail, and the target behind it is not looked at
    known = np.concatenate([dataset.history(n).item_index[:-2] for n in range(60)])
    assert set(fitted.tolist()) == set(known.tolist())
    assert len(set(known.tolist()) - set(dataset.history(0).item_index.tolist())) > 20

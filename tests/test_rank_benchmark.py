import json
from pathlib import Path

import pytest

from gistrec import rank_benchmark
from gistrec.rank_measure import RankRules
from gistrec.testing.rankers import taste_impressions
from gistrec.train import train

RULES = RankRules(users=6, fit_users=4, requests=1)
RECIPES = {"itemtable()": (), "recent(keep=9, sink=0) | int8()": (300,)}


@pytest.fixture(scope="module")
def shown():
    return taste_impressions(labels=2)


@pytest.fixture(scope="module")
def model(shown):
    return train(shown, "twin(width=16)", epochs=1, max_len=64, batch_tokens=600)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rank") / "ranking.jsonl"


@pytest.fixture(scope="module")
def rows(model, shown, out):
    return rank_benchmark.run(
        model, shown, out, data="taste", recipes=RECIPES, rules=RULES, quiet=True
    )


def test_references_and_every_recipe_offline_and_online(rows):
    assert [(r["kind"], r["online"]) for r in rows] == [
        ("baseline", False),
        ("recompute", False),
        ("identity", False),
        *[("recipe", False), ("recipe", True)] * 2,
    ]
    for row in rows:
        low, high = row["auc_interval"]
        assert low <= row["auc"] <= high
        assert {"gauc", "logloss", "by_length", "commit", "machine", "split"} <= row.keys()
        assert row["bytes_per_user"] == pytest.approx(row["log_bytes"] + row["state_bytes"], 1e-4)


def test_bytes(rows):
    by_kind = {r["kind"]: r for r in rows}
    assert by_kind["recompute"]["state_bytes"] == by_kind["baseline"]["state_bytes"] == 0
    assert by_kind["recompute"]["log_bytes"] > 39
    table, window = (r for r in rows if r["kind"] == "recipe" and not r["online"])
    assert table["auc_change"] == 0
    assert table["kept_fraction"] < 0.02
    assert table["shared_bytes"] > 0
    assert window["budget_bytes"] == 300 >= window["state_bytes"] > 150


def test_every_label_has_figures(rows):
    assert rows[1]["labels"].keys() == {"liked", "label_1"}
    assert rows[1]["labels"]["liked"]["auc"] == rows[1]["auc"]


def test_what_is_measured_is_not_measured_again(rows, model, shown, out):
    before = out.read_bytes()
    again = rank_benchmark.run(
        model, shown, out, data="taste", recipes=RECIPES, rules=RULES, quiet=True
    )
    assert out.read_bytes() == before
    assert [r["trial"] for r in again] == [r["trial"] for r in rows]
    assert all(json.loads(line)["trial"] for line in before.splitlines())


def test_a_budget_out_of_reach_is_left_out(model, shown, tmp_path, capsys):
    rows = rank_benchmark.run(
        model,
        shown,
        tmp_path / "rows.jsonl",
        data="taste",
        recipes={"recent(keep=9, sink=0) | int8()": (2,)},
        rules=RULES,
        quiet=True,
    )
    assert len(rows) == 3
    assert "left out: recent(keep=9, sink=0) | int8() at 2 B" in capsys.readouterr().err

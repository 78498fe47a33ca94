"""`bench` and `report` of rankers; those of next items are tested in test_cli.py."""

import json

import pytest

from gistrec.cli import main

SHOWN = "interests(users=30, length=60, shown=30, topics=10)"
BENCH = ["bench", "--data", SHOWN, "--backbone", "twin(width=8)", "--epochs", "1", "--users", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def done(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_rows_of_a_ranker(capsys, folder):
    out = folder / "rows.jsonl"
    words = [*BENCH, "--codec", "itemtable()", "--codec", "recent(keep=9) | int8()"]
    code, text, _ = done(capsys, *words, "--budget-bytes", "200", "--out", out, "--json")
    rows = json.loads(text)["rows"]
    assert code == 0
    assert [row["kind"] for row in rows] == ["baseline", "recompute", "identity", *["recipe"] * 2]
    assert all(0 <= row["auc"] <= 1 for row in rows)
    assert rows[-1]["state_bytes"] <= rows[-1]["budget_bytes"] == 200
    assert rows[-1]["rules"]["users"] == 8
    code, again, _ = done(capsys, *words, "--budget-bytes", "200", "--out", out, "--json")
    assert [r["trial"] for r in json.loads(again)["rows"]] == [r["trial"] for r in rows]

    code, text, _ = done(capsys, "report", out)
    assert code == 0
    assert "AUC (95 %)" in text
    assert "itemtable" in text
    code, _, error = done(capsys, "report", out, "--html", folder / "page.html")
    assert code == 1
    assert "rankers alone" in error


def test_a_grid_is_of_logs(capsys, folder):
    code, _, error = done(capsys, *BENCH, "--grid", "catalogue", "--out", folder / "x.jsonl")
    assert code == 2
    assert "--grid is of logs" in error

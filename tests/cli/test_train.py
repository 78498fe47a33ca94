"""`train` and what follows with a ranker; with models of next items, see test_cli.py."""

import json

import pytest

from gistrec.cli import main

SHOWN = "interests(users=30, length=60, shown=30, topics=10)"
TRAIN = ["train", "--data", SHOWN, "--backbone", "twin(width=8)", "--epochs", "1", "--json"]


def done(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_a_ranker_is_trained_measured_and_served(capsys, tmp_path):
    folder, store = tmp_path / "model", f"lmdb://{tmp_path}/states"
    code, text, _ = done(capsys, *TRAIN, "--out", folder, "--codec", "itemtable()")
    document = json.loads(text)
    assert code == 0
    for part in ("validation", "test"):
        low, high = document[part]["auc_interval"]
        assert low <= document[part]["auc"] <= high
        assert {"gauc", "logloss"} <= document[part].keys()
    assert json.loads((folder / "model.json").read_bytes())["labels"] == ["liked"]

    service = ["--model", folder, "--store", store, "--json"]
    code, text, _ = done(capsys, "import", SHOWN, "--store", store, "--json")
    assert json.loads(text)["events"] == 30 * 60
    code, text, _ = done(capsys, "state", "build", *service)
    assert json.loads(text)["users"] == 30
    code, text, _ = done(capsys, "recommend", "3", "-k", "4", *service)
    assert code == 0
    code, text, _ = done(capsys, "state", "show", "3", *service)
    shown = json.loads(text)
    assert (shown["length"], shown["codec"]) == (60, "itemtable(layers=0)")

    code, _, _ = done(
        capsys, "state", "fit", "--model", folder, "--codec", "int8()", "--data", SHOWN
    )
    assert code == 0


def test_settings_are_chosen_on_validation(capsys, tmp_path):
    code, text, _ = done(capsys, *TRAIN, "--out", tmp_path / "m", "--holdout", "2")
    assert code == 0
    assert "validation" in json.loads(text)
    assert "test" not in json.loads(text)


def test_another_seed_of_the_data_is_another_run(capsys, tmp_path):
    assert done(capsys, *TRAIN, "--out", tmp_path / "m")[0] == 0
    other = [word.replace("topics=10", "topics=10, seed=1") for word in TRAIN]
    code, _, error = done(capsys, *other, "--out", tmp_path / "m")
    assert code == 2
    assert "another log" in error


def test_wrong_use_is_told(capsys, tmp_path):
    out = ["--out", tmp_path / "m"]
    code, _, error = done(capsys, "train", "--data", SHOWN, *out)
    assert code == 2
    assert "impressions train a ranker, for example twin()" in error
    log = ["--data", "synthetic(users=9)", "--backbone", "twin()", "--epochs", "1"]
    code, _, error = done(capsys, "train", *log, *out)
    assert code == 1
    assert "trained on impressions with labels" in error
    code, _, error = done(capsys, *TRAIN, *out, "--min-events", "7")
    assert code == 2
    assert "--min-events is of logs" in error
    code, _, error = done(
        capsys, "train", "--data", "labelled(path='log.parquet', label='x')", *out
    )
    assert code == 1
    assert "log.parquet" in error

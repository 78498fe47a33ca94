"""`data` with impressions; with logs, see test_cli.py."""

import json

from gistrec.cli import main

SHOWN = "interests(users=30, length=60, shown=30, topics=10)"


def test_stats_of_impressions(capsys):
    assert main(["data", "stats", SHOWN, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["impressions"] == 900
    assert found["labels"]["liked"]["known"] == 900
    assert found["parts"]["train"]["users"] == 30
    assert main(["data", "stats", SHOWN]) == 0
    assert "label liked" in capsys.readouterr().out


def test_impressions_are_not_written(capsys, tmp_path):
    assert main(["data", "make", SHOWN, "--out", str(tmp_path / "x.parquet")]) == 2
    assert "write the log" in capsys.readouterr().err

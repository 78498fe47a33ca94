"""Result files as the dashboard gets them."""

import json
from pathlib import Path

from gistrec import summary
from gistrec.results import load
from gistrec.server.budget import ResultFiles
from gistrec.train import Model

DEMO = Path(__file__).parents[2] / "docs" / "results" / "demo.jsonl"


def test_points_are_those_of_the_report() -> None:
    benches, errors = ResultFiles((DEMO,)).read()
    assert errors == []
    (expected,) = summary.benches(load(DEMO))
    (bench,) = benches
    assert (bench.file, bench.data, bench.split) == ("demo.jsonl", expected.data, expected.split)
    assert len(bench.points) == len(expected.points)
    best = {point.name for point in summary.frontier_of(expected)}
    assert {point.name for point in bench.points if point.on_frontier} == best
    by_name = {point.name: point for point in expected.points}
    for point in bench.points:
        assert point.ndcg_10 == by_name[point.name].served
        assert point.kept == expected.kept(by_name[point.name])
    assert bench.run == {
        "data": "completejourney",
        "backbone": expected.backbone,
        "scheme": "last_basket",
    }
    assert bench.measured.startswith("Measured: 600 users")


def test_files_are_found_beside_models_and_read_when_they_change(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "results.jsonl"
    file.write_text("".join(DEMO.read_text().splitlines(keepends=True)[:8]))
    found = ResultFiles.found([], [tmp_path / "model"])
    assert found.paths == (file,)
    few = found.read()[0][0].points
    file.write_bytes(DEMO.read_bytes())
    assert len(found.read()[0][0].points) > len(few)
    assert ResultFiles.found([DEMO], [tmp_path / "model"]).paths == (DEMO,)
    assert ResultFiles.found([], [tmp_path / "elsewhere" / "model"]).paths == ()


def test_a_file_that_can_not_be_read_is_told_beside_the_others(tmp_path: Path) -> None:
    benches, errors = ResultFiles((tmp_path / "gone.jsonl", DEMO)).read()
    assert len(benches) == 1
    assert [error.type for error in errors] == ["DataError"]
    assert "gone.jsonl does not exist" in errors[0].message


def test_a_run_is_that_of_the_model_that_was_measured(tmp_path: Path, model: Model) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    run = 'data = "log.parquet"\nmin_events = 5\ncodec = "int8()"\n[log]\nusers = 9\n'
    (folder / "run.toml").write_text(run)
    rows = [json.loads(line) for line in DEMO.read_text().splitlines()]
    rows = [row | {"model": model.backbone.fingerprint()} for row in rows]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((bench,), _) = ResultFiles((file,), (tmp_path / "none", folder)).read()
    assert bench.run == {
        "data": "log.parquet",
        "min_events": 5,
        "log": {"users": 9},
        "plan": {"model": str(folder)},
    }

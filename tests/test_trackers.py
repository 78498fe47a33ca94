"""Both trackers, the real ones: what was told is read back with their own readers."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gistrec import results
from gistrec.cli import main
from gistrec.errors import ConfigError
from gistrec.trackers import push, tracker

ROW = {"data": "log", "split": "last", "kind": "recipe", "backbone": "hstu()", "codec": "int8()"}
ROWS = [ROW | {"seed": n, "online": False, "ndcg_10": n / 10, "by_length": {}} for n in range(3)]

Told = dict[str, dict[str, Any]]
"""Of a run, by name: its metrics, and under "params" what was asked for."""


def tensorboard(folder: Path) -> Told:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    told = {}
    for run in sorted(folder.iterdir()):
        events = EventAccumulator(str(run))
        events.Reload()
        data = plugin_data_pb2.HParamsPluginData()
        plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
        data.ParseFromString(plugin.content)
        params = data.session_start_info.hparams.items()
        scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        found = {n: max(at, key=lambda one: one.step).value for n, at in scalars.items()}
        told[run.name.rpartition("-")[0]] = found | {
            "params": {n: v.string_value or v.number_value for n, v in params}
        }
    return told


def mlflow(folder: Path) -> Told:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("gistrec")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {r.info.run_name: dict(r.data.metrics) | {"params": r.data.params} for r in runs}


@pytest.fixture(
    params=[
        tensorboard,
        pytest.param(  # slow, because it makes the tables of a database
            mlflow, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
        ),
    ],
    ids=lambda read: read.__name__,
)
def place(request, tmp_path: Path, monkeypatch) -> tuple[str, Callable[[], Told]]:
    """A tracker's spec, and what was told to it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = tmp_path / "runs"
    spec = f"tensorboard(folder={str(folder)!r})" if request.param is tensorboard else "mlflow"
    return spec, lambda: request.param(folder)


def test_a_training_and_rows_are_told(place, tmp_path: Path, capsys):
    spec, told = place
    log = "synthetic(users=30, items=60, length=40)"
    words = ["train", "--data", log, "--backbone", "hstu(width=8, num_layers=1)", "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "small"), "--log-to", spec]) == 0
    small = told()["small"]
    assert small["loss"] > 0
    assert small["ndcg_10"] >= 0
    assert small["params"]["backbone"] == "hstu(width=8, num_layers=1)"
    assert float(small["params"]["epochs"]) == 2

    path = tmp_path / "rows.jsonl"
    for row in ROWS:
        results.append(path, row | {"state_bytes": 64.0, "log_bytes": 8.0, "interval": [0, 1]})
    capsys.readouterr()
    assert main(["report", str(path), "--log-to", spec]) == 0
    assert f"3 of 3 rows were new to {spec}" in capsys.readouterr().out
    assert main(["report", str(path), "--log-to", spec, "--json"]) == 0
    assert '"told":0' in capsys.readouterr().out
    one = told()["log_recipe_int8" if "tensorboard" in spec else "log recipe int8()"]
    assert one["state_bytes"] == 64
    assert "seed" not in one
    assert one["params"]["codec"] == "int8()"


def test_a_run_of_the_same_key_goes_on(place):
    spec, told = place
    for step in (1, 2):
        with tracker(spec).run("mine", {"a": 1}) as log:
            log({"loss": 1 / step}, step)
    assert [*told()] == ["mine"]
    assert told()["mine"]["loss"] == 0.5
    assert push(ROWS, tracker(spec)) == 3
    assert push(ROWS, tracker(spec)) == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("wandb", "unknown tracker 'wandb': allowed: mlflow, tensorboard"),
        ("mlflow | tensorboard", "unknown tracker"),
        ("tensorboard(path='x')", "tensorboard has no option 'path': allowed: folder"),
    ],
)
def test_wrong_specs(spec: str, said: str):
    with pytest.raises(ConfigError, match=said.replace("|", r"\|")):
        tracker(spec)


def test_what_is_not_installed_is_told_with_its_remedy(monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "mlflow":
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ConfigError, match=r'mlflow is not installed .*pip install "gistrec\[mlflow\]"'
    ):
        tracker("mlflow")


@pytest.mark.slow
def test_a_tracker_that_is_away_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        ConfigError, match=r"MLflow at http://127.0.0.1:9 can't be told: .* set MLFLOW"
    ):
        tracker("mlflow")

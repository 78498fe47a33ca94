"""The search for a recipe: within the budget, on the validation split, resumable, and served."""

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from gistrec import backbones, codecs, registry, results
from gistrec.cli import main
from gistrec.cli._output import Work
from gistrec.cli.plan import _with_memories
from gistrec.dataset import Dataset
from gistrec.errors import BudgetError, ConfigError
from gistrec.measure import Rules, Subject, Timed
from gistrec.plan import Plan, Wanted, _trials, search
from gistrec.plan._space import Space, _steps, smallest
from gistrec.recipe import Recipe
from gistrec.results import Row
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, Training

BUDGET = 250
WANTED = Wanted(budget_bytes=BUDGET, trials=6, users=8)
OF_A_TRIAL = ("number", "state", "asked", "codec", "rungs", "state_bytes", "same_as")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few codecs, fast ones, and few probes and requests."""
    every = registry.names
    quick = {"bf16", "int8", "itemresidual", "keynorm", "lowrank", "recent", "rvq", "zstd"}

    def names(family: registry.Family) -> list[str]:
        return [n for n in every(family) if family != "codecs" or n in quick]

    monkeypatch.setattr(registry, "names", names)
    rules = Rules(online_users=6, online_events=4, fit_users=16, probe_users=6, requests=3)
    monkeypatch.setattr(_trials, "_RULES", rules)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return stride_dataset(users=40, items=60, length=20)


def model_of(dataset: Dataset, spec: str = "hstu(width=8, num_layers=1)", **training: Any) -> Model:
    torch.manual_seed(0)
    backbone = backbones.build(spec, num_items=dataset.num_items)
    return Model(backbone.eval(), dataset.items, Training(**{"holdout": 2} | training))


def trials_of(path: Path) -> list[Row]:
    rows = [row for row in results.load(path) if row["kind"] == "trial"]
    return [{name: row.get(name) for name in OF_A_TRIAL} for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture
def found(dataset: Dataset, folder: Path) -> Plan:
    """Searched by the first test that asks, read by the others."""
    return search([model_of(dataset)], dataset, folder / "plan.jsonl", WANTED)


# ---- the search ----


def test_the_choice_keeps_to_the_budget_by_measured_bytes(dataset: Dataset, found: Plan) -> None:
    subject = Subject(model_of(dataset), dataset, Rules(), holdout=1)
    held = subject.offline(subject.fit(codecs.parse(found.chosen["codec"])))
    assert held.blob_bytes.mean() == pytest.approx(found.chosen["state_bytes"])
    assert held.blob_bytes.mean() <= BUDGET
    ndcg = subject.task.per_user(held.lists)["ndcg_10"].mean()
    assert found.chosen["ndcg_10"] == pytest.approx(ndcg, rel=1e-5)
    assert found.chosen["users"] == 40
    full = subject.task.per_user(subject.full.lists)["ndcg_10"].mean()
    assert found.chosen["kept"] == pytest.approx(ndcg / full, rel=1e-5)
    low, high = found.chosen["kept_interval"]
    assert low <= found.chosen["kept"] <= high
    assert found.chosen["recommend_ms_p99"] > 0


def test_what_was_tried_is_in_the_file(found: Plan, folder: Path) -> None:
    rows = results.load(folder / "plan.jsonl")
    trials = [row for row in rows if row["kind"] == "trial"]
    assert len({row["asked"] for row in trials if "same_as" not in row}) == found.tried == 6
    for row in trials:
        assert row["commit"]
        assert row["budget_bytes"] == BUDGET
        if row["state"] == "complete":
            assert row["state_bytes"] <= BUDGET
            assert row["users"] == 40
        elif row["state"] == "stopped":
            assert row["users"] in (8, 24)
        else:
            assert row["state"] in ("too big", "rejected")
            assert row["why"]
    complete = [r for r in trials if r["state"] == "complete"]
    assert max(r["ndcg_10"] for r in complete) <= max(r["ndcg_10"] for r in found.frontier)
    assert found.failures == []
    assert found.warning is None


def test_the_frontier_only_gains(found: Plan) -> None:
    assert len(found.frontier) > 0
    for row, larger in zip(found.frontier, found.frontier[1:], strict=False):
        assert row["state_bytes"] <= larger["state_bytes"]
        assert row["ndcg_10"] < larger["ndcg_10"]
    assert [row["kind"] for row in found.references] == ["full", "recompute"]
    assert found.references[0]["kept"] == 1


def test_a_search_that_was_made_is_not_repeated(
    dataset: Dataset, found: Plan, folder: Path
) -> None:
    before = (folder / "plan.jsonl").read_bytes()
    again = search([model_of(dataset)], dataset, folder / "plan.jsonl", WANTED)
    assert (folder / "plan.jsonl").read_bytes() == before
    assert again.chosen["codec"] == found.chosen["codec"]


@pytest.mark.slow
def test_a_killed_search_continues_as_if_it_had_not_been(
    dataset: Dataset, found: Plan, folder: Path, tmp_path: Path
) -> None:
    def kill(tried: int, row: Row) -> None:
        if row["number"] == 2:
            raise KeyboardInterrupt

    out = tmp_path / "plan.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search([model_of(dataset)], dataset, out, WANTED, report=kill)
    assert len(trials_of(out)) == 3
    search([model_of(dataset)], dataset, out, WANTED)
    assert trials_of(out) == trials_of(folder / "plan.jsonl")


@pytest.mark.slow
def test_another_search_takes_nothing_from_the_file(
    dataset: Dataset, found: Plan, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.jsonl"
    out.write_bytes((folder / "plan.jsonl").read_bytes())
    wanted = dataclasses.replace(WANTED, seed=1, trials=1)
    assert search([model_of(dataset)], dataset, out, wanted).tried == 1


def test_the_test_split_is_not_looked_at(
    dataset: Dataset, found: Plan, folder: Path, tmp_path: Path
) -> None:
    items, times = dataset.item_index.copy(), dataset.timestamp.copy()
    items[19::20] = (items[19::20] + 7) % dataset.num_items
    times[19::20] += 12345
    other = dataclasses.replace(dataset, item_index=items, timestamp=times)
    got = search([model_of(other)], other, tmp_path / "plan.jsonl", WANTED)
    assert trials_of(tmp_path / "plan.jsonl") == trials_of(folder / "plan.jsonl")
    same = ("codec", "ndcg_10", "kept", "interval", "drift", "served", "state_bytes")
    for name in same:  # the file holds six digits
        rounded = found.chosen[name]
        expected = rounded if name == "codec" else pytest.approx(rounded, rel=1e-5)
        assert got.chosen[name] == expected


def test_nothing_fits(dataset: Dataset, tmp_path: Path) -> None:
    wanted = Wanted(budget_bytes=4, trials=4)
    with pytest.raises(BudgetError, match=r"nothing fits 4 bytes: the smallest of 4 .* takes \d+"):
        search([model_of(dataset)], dataset, tmp_path / "plan.jsonl", wanted)


def test_nothing_is_fast_enough(dataset: Dataset, found: Plan, folder: Path) -> None:
    wanted = dataclasses.replace(WANTED, p99_ms=1e-6)
    with pytest.raises(ConfigError, match=r"answers in 1e-06 ms \(p99\): the fastest .* takes"):
        search([model_of(dataset)], dataset, folder / "plan.jsonl", wanted)


@pytest.mark.slow
def test_only_what_is_fast_enough_is_chosen(
    dataset: Dataset, found: Plan, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = found.chosen["codec"]

    def served(timed: Timed, recipe: Recipe) -> Row:
        return {"recommend_ms_p99": 9.0 if str(recipe.chain) == slow else 1.0}

    monkeypatch.setattr("gistrec.latency.served", served)
    wanted = dataclasses.replace(WANTED, p99_ms=5)
    got = search([model_of(dataset)], dataset, tmp_path / "plan.jsonl", wanted)
    assert got.chosen["codec"] != slow
    assert slow not in [row["codec"] for row in got.frontier]


@pytest.mark.parametrize("holdout", [0, 1])
def test_a_model_that_has_seen_the_answers_is_named(
    dataset: Dataset, tmp_path: Path, holdout: int
) -> None:
    wanted = Wanted(budget_bytes=3000, trials=1)
    got = search([model_of(dataset, holdout=holdout)], dataset, tmp_path / "plan.jsonl", wanted)
    assert f"trained with holdout {holdout}" in (got.warning or "")


@pytest.mark.slow
def test_models_are_compared_by_the_same_measure(dataset: Dataset, tmp_path: Path) -> None:
    specs = ("hstu(width=8, num_layers=1)", "hstu(width=8, num_layers=1, memory='mqa()')")
    models = [model_of(dataset, spec) for spec in specs]
    wanted = dataclasses.replace(WANTED, trials=4)
    got = search(models, dataset, tmp_path / "plan.jsonl", wanted)
    assert max(row["kept"] for row in got.references if row["kind"] == "full") == 1
    assert {row["backbone"] for row in got.references if row["kind"] == "full"} == {
        str(model.backbone.spec) for model in models
    }
    rows = results.load(tmp_path / "plan.jsonl")
    assert len({row["backbone"] for row in rows if row["kind"] == "trial"}) == 2


def test_a_method_that_breaks_does_not_end_the_search(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, states: Sequence[object]) -> None:
        raise RuntimeError("a bug")

    for name in ("recent", "keynorm"):
        monkeypatch.setattr(registry.find("codecs", name), "encode", broken)
    wanted = Wanted(budget_bytes=3000, trials=8, seed=3)
    got = search([model_of(dataset)], dataset, tmp_path / "plan.jsonl", wanted)
    assert got.failures
    assert all("RuntimeError: a bug" in failure for failure in got.failures)
    assert "recent" not in got.chosen["codec"]


@pytest.mark.parametrize(
    "wrong", [{"budget_bytes": 0}, {"trials": 0}, {"users": 0}, {"p99_ms": 0.0}]
)
def test_wrong_wishes_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        Wanted(**{"budget_bytes": 9} | wrong)


# ---- what is drawn ----


def test_every_draw_of_the_whole_registry_is_a_recipe(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    backbone = model_of(dataset).backbone
    space = Space.of(backbone.prefill([dataset.history(0)], hints=True))
    assert list(space.left_out) == []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.draw(study.ask()) for _ in range(200)]
    assert all(str(codecs.parse(str(chain))) == str(chain) for chain in drawn)
    used = {part.spec.name for chain in drawn for part in (*chain.codecs, *chain.byte_codecs)}
    assert used == set(space.examples)


def test_what_a_codec_needs_must_be_in_the_states(dataset: Dataset) -> None:
    latent = model_of(dataset, "hstu(width=8, num_layers=1, memory='mla(rank=4)')")
    with_keys = Space.of(model_of(dataset).backbone.prefill([dataset.history(0)], hints=True))
    without = Space.of(latent.backbone.prefill([dataset.history(0)], hints=True))
    assert set(with_keys.examples) - set(without.examples) == {"keynorm"}


def test_dials_are_drawn_in_steps() -> None:
    assert _steps(range(1, 1025), 20) == [1, 2, 4, 8, 16]
    assert _steps((2, 4), 1) == [2]
    assert _steps(range(16, 1, -1), 64) == [16, 8, 4, 2]
    assert _steps(("small", "large"), 1) == ["small", "large"]


def test_the_smallest_recipe_has_its_first_dial_at_its_end() -> None:
    chain = codecs.parse("recent(keep=99, sink=0) | rvq(levels=3) | zstd()")
    assert str(smallest(chain)).startswith("recent(keep=1, sink=0) | rvq(levels=3, codes=256) |")


# ---- the command ----

LOG = "synthetic(users=30, items=60, length=30)"
SMALL = ["--backbone", "hstu(width=8, num_layers=1)", "--epochs", "1"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    assert run("data", "make", LOG, "--out", folder / "log.parquet") == 0
    return folder / "log.parquet"


def test_plan_trains_and_serves(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "plan.toml"
    words = ["plan", "--data", log, "--budget-bytes", BUDGET, "--trials", 4, "--out", out, *SMALL]
    assert run(*words) == 0
    said = capsys.readouterr()
    assert f"train the final model: gistrec train --run {out}" in said.out
    assert "warning" not in said.out
    wrote = tomllib.loads(out.read_text())
    assert wrote["holdout"] == 1
    assert wrote["epochs"] == 1
    assert wrote["plan"]["state_bytes"] <= wrote["plan"]["budget_bytes"] == BUDGET
    assert f"chosen: {wrote['codec']}" in said.out
    measured = Model.load(wrote["plan"]["model"])
    assert measured.training.holdout == 2

    assert run(*words, "--json") == 0  # nothing is trained or tried again
    again = json.loads(capsys.readouterr().out)
    assert again["chosen"]["codec"] == wrote["codec"]
    assert len(trials_of(out.with_suffix(".jsonl"))) == len(trials_of(Path(again["trials"])))

    assert run("train", "--run", out, "--out", tmp_path / "final", "--quiet") == 0
    final = Model.load(tmp_path / "final")
    assert final.training == dataclasses.replace(measured.training, holdout=1)
    assert Recipe.load(tmp_path / "final" / "recipe").manifest.codec == wrote["codec"]

    assert run("serve", "--run", out, "--get", "/v1/stats") == 0
    served = capsys.readouterr()
    assert json.loads(served.out.splitlines()[-1])["codec"] == wrote["codec"]
    assert f"for the final model, gistrec train --run {out}" in served.err
    other = "bf16()" if wrote["codec"] != "bf16()" else "int8()"
    fit = ["state", "fit", "--model", wrote["plan"]["model"], "--codec", other, "--data", log]
    assert run(*fit) == 0
    assert run("serve", "--run", out, "--get", "/v1/stats") == 2
    assert f"keeps states as {other}, not as" in capsys.readouterr().err


@pytest.mark.slow
def test_plan_of_a_final_model_warns(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "plan.toml"
    assert run("train", "--data", log, "--out", model, *SMALL) == 0
    words = ["plan", "--data", log, "--model", model, "--budget-bytes", 400, "--out", out]
    assert run(*words, "--trials", 2, "--seed", 5) == 0
    (line,) = [n for n in capsys.readouterr().out.splitlines() if n.startswith("warning: ")]
    wrote = tomllib.loads(out.read_text())
    assert line == f"warning: {wrote['plan']['warning']}"
    assert "holdout 1" in line
    assert wrote["seed"] == 0  # the training's; the search's is a fact about it
    assert wrote["plan"]["seed"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m", *SMALL[:2]], "give either --model"),
        (["--model", "m", "--memories", "mqa()"], "--model is trained already"),
        (["--model", "m", "--max-len", "7"], "--model is trained already"),
        ([*SMALL, "--memories", "mqaa()"], "did you mean 'mqa'"),
        ([*SMALL, "--out", "plan.jsonl"], "--out is a run file"),
        ([*SMALL, "--trials", "0"], "trials must be at least 1"),
    ],
    ids=str,
)
def test_wrong_use(words, said, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "--data", LOG, "--budget-bytes", 99, *words) == 2
    assert said in capsys.readouterr().err


def test_a_run_file_without_a_model_can_not_be_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'data = "{LOG}"\nmin_events = 5\ncodec = "int8()"\n')
    assert run("serve", "--run", file, "--get", "/") == 2
    assert "does not say its plan: give a run file of `gistrec plan`" in capsys.readouterr().err


def test_memories_are_named_or_all_that_work() -> None:
    quiet = Work(quiet=True)
    assert _with_memories("hstu(width=8)", [], 9, quiet) == ["hstu(width=8)"]
    named = ["mqa", "full() | shared"]
    assert _with_memories("hstu(memory='mla()')", named, 9, quiet) == [
        "hstu(memory='mqa()')",
        "hstu(memory='full() | shared()')",
    ]
    every = _with_memories("hstu()", ["all"], 9, quiet)
    assert {"hstu(memory='full()')", "hstu(memory='mla()')"} < set(every)
    assert "hstu(memory='shared()')" not in every


def test_subjects_of_other_splits_see_other_targets(dataset: Dataset) -> None:
    model = model_of(dataset)
    last, before = (Subject(model, dataset, Rules(), holdout=n).task for n in (0, 1))
    assert np.array_equal(last.split.target_start - 1, before.split.target_start)

import pytest
import torch

from gistrec import backbones, catalogue, codecs, registry
from gistrec.errors import DataError
from gistrec.testing.backbones import train_losses

SMALL = "hstu(width=16, repeats=True, temperature=0.1)"


def test_every_method_stands_in_the_catalogue():
    """A new method that nobody measures would be a claim without a number."""
    jobs = catalogue.jobs(SMALL)
    measured = {
        part.name
        for job in jobs
        for spec in (*job.recipes, job.backbone, _memory(job.backbone))
        for part in registry.parse_spec(spec)
    }
    offered = {n for f in ("codecs", "memories", "backbones") for n in registry.names(f)}
    offered -= {n for n in registry.names("backbones") if backbones.is_ranker(n)}  # another task
    assert offered - measured == {"sasrec"}  # a full model of its own


def _memory(backbone: str) -> str:
    return registry.parse_spec(backbone)[0].options.get("memory", "full()")


def test_a_method_that_is_not_listed_takes_part_with_its_defaults(monkeypatch):
    monkeypatch.setattr(catalogue, "SLOTS", ("recent(keep=9)",))
    monkeypatch.setattr(catalogue, "_PRECISIONS", ())
    monkeypatch.setattr(catalogue, "_COMPOSED", ())
    monkeypatch.setattr(catalogue, "_TRAINED", ())
    monkeypatch.setattr(catalogue, "_ARCHITECTURES", ())
    full = catalogue.jobs(SMALL)[0].recipes
    assert {"h2o(keep=9) | rvq(levels=1)", "groupmean() | int8()"} <= set(full)
    window = "recent(keep=9, sink=0)"
    assert {f"{window} | fp8()", f"{window} | lowrank(rank=9)"} <= set(full)
    assert f"{window} | rvq(levels=1) | ans()" in full
    models = catalogue.models(SMALL)
    assert sum("mqa()" in spec for spec in models) == 1
    assert "ssm(repeats=True, temperature=0.1, width=16)" in {_sorted(spec) for spec in models}


def _sorted(spec):
    (part,) = registry.parse_spec(spec)
    return str(registry.Spec(part.name, dict(sorted(part.options.items()))))


@pytest.mark.parametrize("spec", catalogue.models(SMALL))
def test_models_can_be_built_and_keep_the_full_one_s_options(spec):
    net = backbones.build(spec, num_items=9)
    assert net.head.repeats is not None
    assert net.head.temperature == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("spec", catalogue.models("hstu(width=16, dropout=0.0)"))
def test_models_learn_the_strides(spec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = train_losses(spec, steps=60)
    assert losses[-1] < 0.6 * losses[0]


def test_recipes_can_be_parsed_and_all_but_those_of_a_constant_size_turned():
    for job in catalogue.jobs(SMALL):
        for recipe, budgets in job.recipes.items():
            codecs.parse(recipe)
            assert set(budgets) <= set(catalogue.BUDGETS)
    assert catalogue.BUDGETS[0] == 64
    assert catalogue.BUDGETS[-1] == 64 * 1024


def row(backbone, recipe, state_bytes, ndcg, **changes):
    return {
        "data": "log",
        "online": True,
        "seed": 0,
        "backbone": backbone,
        "recipe": recipe,
        "state_bytes": state_bytes,
        "full_bytes": 100_000,
        "ndcg_10": ndcg,
    } | changes


def test_finalists_are_the_best_within_each_fraction():
    full, mqa = catalogue.models("hstu(width=16)")[:2]
    rows = [row(full, f"recent(keep={n})", 100 + n, n / 100) for n in range(9)]
    rows += [
        row(full, "int8()", 251, 0.9),  # too big for 0.25 %
        row(mqa, "int8()", 700, 0.8),
        row(full, "bf16()", 200, 0.99, seed=1),
        row(full, "bf16()", 200, 0.99, data="another"),
        row(full, "bf16()", 200, 0.99, online=False),
    ]
    jobs = catalogue.finalists("sasrec(width=8)", rows, "log")
    small = [f"recent(keep={n})" for n in (8, 7, 6, 5, 4)]
    assert [job.backbone for job in jobs] == ["sasrec(width=8)", "sasrec(width=8, memory='mqa()')"]
    assert jobs[0].recipes == {
        **dict.fromkeys(small[:3], (250, 800, 4000)),
        **dict.fromkeys(small[3:], (250,)),
        "int8()": (800, 4000),
    }
    assert jobs[1].recipes == {"int8()": (800, 4000)}


def test_finalists_of_nothing():
    with pytest.raises(DataError, match="run the catalogue on it first"):
        catalogue.finalists("hstu()", [], "log")

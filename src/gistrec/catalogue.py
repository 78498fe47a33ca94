"""The catalogue: every kind of method under the same rules, at the same bytes.

Methods that work on a finished state are measured on one trained model. Methods that are trained
each get a model of their own, with the same settings as the full one, so the training budget is the
same. What is listed here are settings; a method that is not listed takes part with its defaults.
Evictions and mergings stand before two precisions, precisions behind a sliding window, so
that all reach the same budgets.
"""

import dataclasses
import importlib
import inspect
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gistrec import backbones, codecs, registry
from gistrec.codecs import is_row_tensor
from gistrec.errors import DataError
from gistrec.measure import Rules
from gistrec.registry import Family, Spec
from gistrec.results import Row

FRACTIONS = (0.0025, 0.008, 0.04)
"""Of the full fp32 state, at which finalists are chosen."""
FINALISTS = 5
"""So many at each."""
BUDGETS = tuple(64 << n for n in range(11))
"""64 B to 64 KB of a user's state."""
FEW_BUDGETS = BUDGETS[::3]
"""64 B, 512 B, 4 KB and 32 KB."""

RULES = Rules(
    fit_users=500,
    fit_items=4000,
    probe_users=160,
    online_users=1000,
    online_events=8,
    requests=20,
)
"""All users offline; of them 1,000 online, encoded after each of their newest 8 events."""
FINAL = dataclasses.replace(RULES, online_events=64)
"""Of finalists: 64 events."""

_WINDOW = "recent(keep=9, sink=0)"
"""Stands before what drops no slots, so that it reaches the budgets."""
SLOTS = (
    "recent(keep=9, sink=0)",
    "recent(keep=9, sink=4)",
    "random(keep=9, sink=0)",
    "keynorm(keep=9)",
    "keynorm(keep=9, largest=True)",
    "h2o(keep=9)",
    "snapkv(keep=9)",
    "tova(keep=9)",
    "epicache(keep=9, sink=0)",
    "groupmean()",
    "groupmean(weighted=False)",
    "mergeevict(keep=9, sink=0)",
    "mergeevict(keep=9, sink=0, weighted=False)",
)
_BEHIND = ("rvq(levels=1)", "int8()")
_PRECISIONS = (
    "identity()",
    "bf16()",
    "fp8()",
    "int4()",
    "kivi(bits=2)",
    "kivi(bits=4)",
    "intactkv()",
    "trits()",
    "pq(subvectors=4)",
    "pq(subvectors=8)",
    "rvq(levels=2)",
    "rvq(levels=4)",
    "hadamard() | int8()",
    "hadamard() | kivi(bits=2)",
    "lowrank(rank=8) | int8()",
    "stack() | rvq(levels=1)",
    "stack() | rvq(levels=2)",
    "stack() | rvq(levels=4)",
    "itemresidual() | rvq(levels=1)",
    "itemresidual() | int8()",
    "itemtable()",
    "itemtable(layers=1) | rvq(levels=1)",
    "itemtable(layers=1) | stack() | rvq(levels=1)",
    "itemtable(layers=1) | stack() | rvq(levels=2)",
    "itemtable(layers=1) | stack() | rvq(levels=4)",
    "itemtable(layers=1) | int4()",
    "rvq(levels=1) | ans()",
    "int4() | ans()",
    "int8() | zstd()",
)
_COMPOSED = (
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | rvq(levels=1)",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | rvq(levels=2)",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | rvq(levels=4)",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | rvq(levels=2) | ans()",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | int8()",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=2)",
    f"{_WINDOW} | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=4)",
    "snapkv(keep=9) | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=2)",
)
_TRAINED: tuple[dict[str, Any], ...] = (
    {"memory": "mqa()"},
    {"num_heads": 4},
    {"memory": "gqa(groups=2)", "num_heads": 4},
    {"memory": "mla(rank=16)"},
    {"memory": "egmla(rank=8)"},
    {"memory": "egmla(rank=4) | shared()"},
    {"memory": "full() | shared()"},
    {"memory": "collective(own=4)"},
    {"memory": "full() | register()"},
    {"memory": "longformer()"},
    {"memory": "beacon()"},
    {"memory": "reformer()"},
    {"memory": "linformer()"},
    {"memory": "cbsa()"},
)
_CONTROLS: tuple[dict[str, Any], ...] = (
    {"memory": "control(pool=256)"},
    {"memory": "control(gate=16)"},
    {"memory": "control(hidden=64)"},
)
_FULL_MODELS = {"hstu", "sasrec"}
_ARCHITECTURES = ("linear()", "rwkv()", "ttt()", "ssm()", "blossomrec()")


@dataclasses.dataclass(frozen=True)
class Job:
    """A model and what to measure it with."""

    backbone: str
    recipes: dict[str, tuple[int, ...]]
    """Budgets in bytes of each."""


def models(backbone: str) -> list[str]:
    """Specs of the models to train: the full one, then every trained method's, then controls.

    Args:
        backbone: The full model. A memory takes its place in it; an architecture takes over those
            of its options that it knows.
    """
    (base,) = registry.parse_spec(backbone)
    listed = {part.name for c in (*_TRAINED, *_CONTROLS) for part in _memories(c)}
    others = [{"memory": str(spec)} for spec in _unlisted("memories", listed | {"full"})]
    changed = [Spec(base.name, base.options | c) for c in (*_TRAINED, *others, *_CONTROLS)]
    listed = {part.name for text in _ARCHITECTURES for part in registry.parse_spec(text)}
    rankers = {name for name in registry.names("backbones") if backbones.is_ranker(name)}
    for part in (
        *(part for text in _ARCHITECTURES for part in registry.parse_spec(text)),
        *_unlisted("backbones", listed | _FULL_MODELS | rankers),
    ):
        known = registry.options_of(registry.find("backbones", part.name))
        shared = {name: value for name, value in base.options.items() if name in known}
        changed.append(Spec(part.name, shared | part.options))
    return [str(spec) for spec in (base, *changed)]


def jobs(backbone: str) -> list[Job]:
    """The whole catalogue, what tells most first.

    Args:
        backbone: The full model.
    """
    full, *others = models(backbone)
    texts = (*SLOTS, *_PRECISIONS, *_COMPOSED)
    listed = {part.name for text in texts for part in registry.parse_spec(text)}
    slots, behind = list(SLOTS), list(_PRECISIONS)
    for spec in _unlisted("codecs", listed):
        stage = registry.find("codecs", spec.name).stage
        if stage == codecs.SLOTS:
            slots.append(str(spec))
        else:
            behind.append(f"rvq(levels=1) | {spec}" if stage == codecs.BYTES else str(spec))
    kept = [*_COMPOSED, *(f"{_WINDOW} | {precision}" for precision in behind)]
    first, *rest = ([f"{chosen} | {precision}" for chosen in slots] for precision in _BEHIND)
    found = [Job(full, dict.fromkeys(itertools.chain(kept, first, *rest), FEW_BUDGETS))]
    found += [Job(spec, recipes(spec)) for spec in others]
    return [*found, Job(full, dict.fromkeys((*kept, *first), BUDGETS))]


def _memories(change: dict[str, Any]) -> list[Spec]:
    return registry.parse_spec(change.get("memory", "full()"))


def _unlisted(family: Family, listed: set[str]) -> list[Spec]:
    """Methods with their defaults; one whose options have none but its dial's gets a small one."""
    found = []
    for name in registry.names(family):
        cls = registry.find(family, name)
        base = inspect.signature(importlib.import_module(f"gistrec.{family}").COMPONENT_BASES[0])
        options = registry.options_of(cls, skip=base.parameters)
        required = {option for option, default in options.items() if default is ...}
        if name not in listed and required <= {getattr(cls, "dial", "")}:
            found.append(Spec(name, dict.fromkeys(required, 9)))
    return found


def recipes(spec: str) -> dict[str, tuple[int, ...]]:
    """Codecs to measure a trained method with, and the budgets of each."""
    state = backbones.build(spec, num_items=1).empty()
    rows = [name for name, tensor in state.tensors.items() if is_row_tensor(name, tensor)]
    if all(name.startswith("fixed.") for name in rows):
        of_one_size = ("bf16()", "int8()", "int4()", "rvq(levels=4)", "rvq(levels=1)")
        return dict.fromkeys(of_one_size, BUDGETS)
    codes, floats = (f"{_WINDOW} | {precision}" for precision in _BEHIND)
    return {"int8()": BUDGETS, codes: BUDGETS, floats: FEW_BUDGETS[2:]}


def finalists(backbone: str, rows: Sequence[Row], data: str) -> list[Job]:
    """The best recipes of a measured catalogue, to be measured with other seeds and backbones.

    The best `FINALISTS` at each of `FRACTIONS` of the full fp32 state, by NDCG@10 online; the model
    with most recipes is taken for the full one.

    Args:
        backbone: The full model of the final.
        rows: Of the catalogue.
        data: Name of the log.

    Raises:
        DataError: there are no online rows of the log.
    """
    measured = [row for row in rows if row["data"] == data and row.get("online")]
    if not measured:
        raise DataError(f"no online rows of {data!r}: run the catalogue on it first")
    counts = Counter(row["backbone"] for row in measured)
    names = models(counts.most_common(1)[0][0])
    full_bytes = max(row["full_bytes"] for row in measured if row["backbone"] == names[0])
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for fraction in FRACTIONS:
        budget = round(fraction * full_bytes)
        best: dict[tuple[str, str], Row] = {}
        for row in sorted(measured, key=lambda row: row["ndcg_10"]):
            if row["state_bytes"] <= budget and row["backbone"] in names and not row["seed"]:
                best[row["backbone"], row["recipe"]] = row
        for spec, recipe in sorted(best, key=lambda key: -best[key]["ndcg_10"])[:FINALISTS]:
            chosen = found.setdefault(models(backbone)[names.index(spec)], {})
            chosen[recipe] = (*chosen.get(recipe, ()), budget)
    return [Job(spec, chosen) for spec, chosen in found.items()]

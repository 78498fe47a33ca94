"""A catalogue's rows become the right methods, numbers and words, whatever part of it exists."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from gistrec import standings
from gistrec.cli.report import MANY, tables
from gistrec.results import Row
from gistrec.standings import Standing, Standings

BASE = "hstu(width=8)"
FULL, FULL_BYTES = 0.2, 100_000.0
REPLAYED = 0.25
"""The full model's NDCG@10 with the users that are replayed online."""
COMMON = {
    "data": "films",
    "split": "leave_last_out",
    "seed": 0,
    "rules": {"online_events": 16, "requests": 20, "store": "ram://"},
    "budget_bytes": None,
    "online": False,
    "users": 500,
    "log_bytes": 300.0,
    "date": "2026-01-02T03:04:05+00:00",
}


def measured(
    kind: str,
    kept: float,
    size: float,
    *,
    recipe: str = "",
    backbone: str = BASE,
    own: float = FULL,
    wide: float = 0.01,
    **more: Any,
) -> Row:
    """A row that keeps so much of its own model's `own`."""
    memory = re.search(r"memory='(.+?)'", backbone)
    made = {
        "kind": kind,
        "backbone": backbone,
        "recipe": recipe,
        "codec": recipe.replace("keep=9", f"keep={more.get('budget_bytes')}"),
        "parameters": 1000,
        "ndcg_10": own * kept,
        "interval": [own * (kept - wide), own * (kept + wide)],
        "by_length": {"<50": {"mean": own * kept, "users": 500}},
        "state_bytes": size,
        "state_bytes_p99": 3 * size,
        "bytes_per_user": size + 300,
    }
    if kind != "baseline":
        made["memory"] = memory[1] if memory else "full()"
    if kind in ("recipe", "identity"):
        made |= {"ndcg_kept": kept, "ndcg_kept_interval": [kept - wide, kept + wide]}
        made |= {"full_bytes": FULL_BYTES, "state_parts": {"header": 9.0, "floats": size - 9}}
    return COMMON | made | more


def identity(backbone: str = BASE, own: float = FULL, **more: Any) -> Row:
    size = more.pop("size", FULL_BYTES)
    return measured("identity", 1.0, size, recipe="identity()", backbone=backbone, own=own, **more)


def offline(recipe: str, budget: int | None, kept: float, size: float, **more: Any) -> Row:
    return measured("recipe", kept, size, recipe=recipe, budget_bytes=budget, **more)


def both(recipe: str, budget: int | None, kept: float, size: float, **more: Any) -> list[Row]:
    """Offline and online; `drift` is of the share kept."""
    drift = more.pop("drift", 0.0)
    online = offline(recipe, budget, kept + drift, size, **({"own": REPLAYED} | more))
    online |= {"online": True, "drift": drift * REPLAYED, "codec": online["codec"]}
    online |= {"drift_interval": [drift * REPLAYED - 0.001, drift * REPLAYED + 0.001]}
    return [offline(recipe, budget, kept, size, **more), online]


def only(rows: list[Row]) -> Standings:
    (found,) = standings.of(rows)
    return found


def method(rows: list[Row], name: str) -> Standing:
    (found,) = [m for m in only(rows).methods if m.name == name]
    return found


REFERENCES = [
    measured("baseline", 0.6, 0, backbone="own_frequent", log_bytes=300.0),
    measured("recompute", 1.0, 0),
    identity(),
]
A, B, C = "recent(keep=9) | int8()", "h2o(keep=9) | int8()", "random(keep=9) | int8()"


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("int8()", "int8"),
        ("recent(keep=9) | int8()", "int8"),
        ("recent(keep=9)", "recent"),
        ("h2o(keep=9) | int8()", "h2o"),
        ("recent(keep=9) | hadamard() | int8()", "hadamard"),
        ("recent(keep=9) | rvq(levels=1) | ans()", "ans"),
        ("recent(keep=9) | identity()", "identity"),
        ("recent(keep=9) | itemtable(layers=1) | stack() | rvq()", "itemtable | stack | rvq"),
        ("snapkv(keep=9) | stack() | rvq()", "snapkv | stack | rvq"),
    ],
)
def test_a_recipe_belongs_to_the_codec_that_it_is_about(recipe: str, name: str) -> None:
    found = only([identity(), offline(recipe, 64, 0.5, 60)])
    about = [m.name for m in found.methods if any(p.point.recipe == recipe for p in m.places)]
    assert about == [name]


def test_the_window_counts_as_a_method_before_what_other_evictions_stand_before() -> None:
    plain = [identity(), offline(A, 64, 0.5, 60), offline("recent(keep=9) | bf16()", 64, 0.4, 60)]
    assert "recent" not in [m.name for m in only(plain).methods]
    places = method([*plain, offline(B, 64, 0.6, 60)], "recent").places
    assert [p.point.recipe for p in places] == [A]


@pytest.mark.parametrize(
    ("backbone", "family", "name", "level"),
    [
        ("hstu(width=8, memory='mqa()')", "memories", "mqa", "head and latent"),
        ("hstu(width=8, memory='full() | shared()')", "memories", "shared", "layer"),
        ("hstu(width=8, memory='egmla() | shared()')", None, "egmla | shared", "composition"),
        ("hstu(width=8, memory='control(gate=4)')", "memories", "control", "reference"),
        ("hstu(width=8, num_heads=4)", "backbones", "hstu", "architecture"),
        ("ttt(width=8)", "backbones", "ttt", "architecture"),
    ],
)
def test_a_model_belongs_to_its_memory_or_architecture(
    backbone: str, family: str | None, name: str, level: str
) -> None:
    memory = {} if "hstu" in backbone else {"memory": None}
    found = method([identity(backbone, own=0.1, **memory), *REFERENCES], name)
    assert (found.family, found.level, found.is_trained) == (family, level, True)
    assert found.places[0].offline.share == pytest.approx(0.5)


def test_trained_methods_are_shares_of_the_full_model_and_know_their_own() -> None:
    model = "hstu(width=8, memory='mqa()')"
    rows = [*REFERENCES, *both(A, 64, 0.8, 60), identity(model, own=0.18)]
    rows += both(A, 64, 0.9, 60, backbone=model, own=0.18)
    (place,) = [p for p in method(rows, "mqa").places if p.point.kind == "recipe"]
    assert place.model == "hstu(memory='mqa()')"
    assert place.own == 0.9
    assert place.offline.share == pytest.approx(0.18 * 0.9 / FULL)
    assert place.offline.interval == pytest.approx((0.18 * 0.89 / FULL, 0.18 * 0.91 / FULL))
    assert place.online is not None
    assert place.online.share == pytest.approx(0.18 * 0.9 / REPLAYED)
    assert method(rows, "int8").places[0].online.share == 0.8  # type: ignore[union-attr]


def test_the_best_within_a_budget_and_of_equals_the_smallest() -> None:
    rows = [
        *REFERENCES,
        *both("recent(keep=9) | rvq(levels=1)", 64, 0.7, 64 * 1.03),
        *both("recent(keep=9) | rvq(levels=2)", 64, 0.9, 64 * 1.04),
        *both("recent(keep=9) | rvq(levels=3)", 128, 0.9, 120, drift=-0.3),
        *both("recent(keep=9) | rvq(levels=4)", 256, 0.8, 250),
    ]
    rvq = method(rows, "rvq")

    def at(budget: int, *, online: bool = False) -> str | None:
        place = rvq.at(budget, online=online)
        return place and place.point.recipe[-2]  # type: ignore[return-value]

    assert [at(b) for b in (32, 64, 128, 256)] == [None, "1", "2", "2"]
    assert [at(b, online=True) for b in (64, 128, 256)] == ["1", "2", "2"]
    rows[5:7] = []  # without the two levels
    assert [at(b) for b in (128, 256)] == ["2", "2"]
    rvq = method(rows, "rvq")
    assert [at(b) for b in (128, 256)] == ["3", "3"]
    assert [at(b, online=True) for b in (128, 256)] == ["1", "4"]


def test_any_part_of_the_rows_makes_a_page_or_nothing() -> None:
    trained = identity("hstu(width=8, memory='mqa()')")
    assert standings.of([]) == []
    assert standings.of(REFERENCES[:1]) == []
    assert standings.of([trained]) == []  # no full model yet
    assert standings.of([identity("hstu(width=8, num_heads=4)"), trained]) == []
    killed = offline(A, 64, 0.5, 60)
    for rows in (REFERENCES, [identity(), killed], [identity(), trained], [*REFERENCES, trained]):
        page = standings.page(standings.of(rows))
        assert "not measured yet" in page
        assert "Orderings" not in page
        assert ET.fromstring(standings.drawing(only(rows)))


def test_logs_are_apart_and_the_newest_rules_count() -> None:
    other = {"data": "books"}
    old = {"rules": {"users": 10}}
    rows = [
        identity(**old),
        offline(A, 64, 0.2, 60, **old),
        *REFERENCES,
        offline(A, 64, 0.5, 60),
        identity(**other),
        offline(A, 64, 0.7, 60, **other),
    ]
    films, books = standings.of(rows)
    assert (films.data, books.data) == ("films", "books")
    for found, kept in ((films, 0.5), (books, 0.7)):
        (int8,) = [m for m in found.methods if m.name == "int8"]
        assert [p.offline.share for p in int8.places] == [kept]


def test_seeds_are_averaged_offline_and_online() -> None:
    rows = [*REFERENCES, *both(A, 64, 0.8, 60), *both(A, 64, 0.9, 60, seed=1, drift=-0.1)]
    (place,) = method(rows, "int8").places
    assert place.offline.share == pytest.approx(0.85)
    assert place.online is not None
    assert place.online.share == pytest.approx(0.8)


def line_of(name: str, text: str) -> list[str]:
    (line,) = [x for x in text.splitlines() if x.startswith("|") and f"`{name}`](" in x]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_marks_the_best_and_what_drifts() -> None:
    rows = [
        *REFERENCES,
        *both(A, 64, 0.8, 60, drift=-0.1),
        *both(A, 128, 0.9, 120, drift=0.1),
        *both(B, 64, 0.8, 60),
        *both(B, 128, 0.85, 120),
        offline("recent(keep=9) | identity()", 64, 0.95, 60),
    ]
    page = standings.page([only(rows)])
    assert line_of("int8", page)[2:4] == ["**80.0**▾", "**90.0**▴"]
    assert line_of("h2o", page)[1:5] == ["[`h2o`](methods.md#h2o)", "**80.0**", "85.0", "85.0"]
    assert line_of("identity", page)[2] == "95.0"  # a reference is not the best
    assert "| own_frequent (300 B) |  |  |  | 60.0 |" in page


def test_states_of_one_size_are_points() -> None:
    model, size = "ttt(width=8)", 9000.0
    rows = [
        *REFERENCES,
        identity(model, size=size, memory=None, state_bytes_p99=size),
        *both("int8()", None, 0.9, 2000, backbone=model, memory=None),
    ]
    page = standings.page([only(rows)])
    assert line_of("ttt", page.split("### States of one size")[0])[7:] == [
        *("**90.0**", "", "", "**100.0**", "", "")
    ]
    assert "2.0 KB | 90.0% (89.0% to 91.0%)" in page.split("### States of one size")[1]
    svg = standings.drawing(only(rows))
    assert svg.count("<title>ttt</title>") == 2


def test_histories_of_one_length_do_not_make_a_state_one_of_one_size() -> None:
    model = "hstu(width=8, memory='mqa()')"
    one_size = {"backbone": model, "state_bytes_p99": FULL_BYTES}
    rows = [*REFERENCES, identity(**one_size), *both(A, 64, 0.8, 60, backbone=model)]
    assert not method(rows, "mqa").is_constant


def test_a_variant_that_predicts_nothing_keeps_nothing() -> None:
    model = "hstu(width=8, memory='mqa()')"
    broken = identity(model, own=0.0) | {"interval": [0.0, 0.0]}
    del broken["ndcg_kept"], broken["ndcg_kept_interval"]  # a share of nothing
    (place,) = method([*REFERENCES, broken], "mqa").places
    assert (place.offline.share, place.own) == (0.0, None)


def test_words_are_said_only_where_intervals_are_apart() -> None:
    close = [*REFERENCES, *both(B, 64, 0.81, 60), *both(C, 64, 0.80, 60)]
    assert standings.findings(only(close)) == []
    (said,) = standings.findings(only([*close, *both(B, 128, 0.9, 120)]))
    assert said == (
        "**Attention against chance**: as expected, eviction by attention keeps more than random "
        "eviction at 128 B, 256 B, 512 B, 1 KB, 2 KB, 4 KB, 8 KB, 16 KB, 32 KB, 64 KB. Widest at "
        "128 B: `h2o(keep=128) | int8()` 90.0% (89.0% to 91.0%) against `random(keep=64) | int8()` "
        "80.0% (79.0% to 81.0%)."
    )
    (contrary,) = standings.findings(only([*close, *both(C, 32, 0.9, 60)]))
    assert "against what is expected, random eviction keeps more than eviction by" in contrary


def test_both_directions_of_an_ordering_are_said() -> None:
    heads = "hstu(width=8, memory='mqa()')"
    rows = [
        *REFERENCES,
        *both(B, 64, 0.8, 60),
        *both(A, 64, 0.6, 60, backbone=heads),
        *both(B, 4096, 0.9, 4000),
        *both(A, 4096, 0.95, 4000, backbone=heads),
    ]
    against, expected = [s for s in standings.findings(only(rows)) if s.startswith("**Heads")]
    assert "against what is expected, dropping events keeps more" in against
    assert "Widest at 64 B" in against
    assert "`recent(keep=4096) | int8()` on `hstu(memory='mqa()')` 95.0%" in expected


def test_precisions_are_ordered() -> None:
    rows = [*REFERENCES]
    for codec, kept in (("rvq()", 0.9), ("int4()", 0.895), ("bf16()", 0.4), ("fp8()", 0.6)):
        rows += both(f"recent(keep=9) | {codec}", 64, kept, 60)
    assert standings.findings(only(rows))[0] == (
        "**Precisions at 64 B**: `recent(keep=64) | rvq()` 90.0% (89.0% to 91.0%) keeps surely "
        "more than the best of `fp8` 60.0%, `bf16` 40.0%."
    )


def test_a_gain_that_the_control_shows_too_is_called_one_of_parameters() -> None:
    gains = identity("hstu(width=8, memory='mla()')", own=0.21, parameters=1500)
    far = identity("hstu(width=8, memory='control(pool=4)')", own=0.18, parameters=9000)
    near = identity("hstu(width=8, memory='control(gate=4)')", own=0.21, parameters=1600)
    ((place, control),) = standings.controls(only([*REFERENCES, gains, far, near]))
    assert (place.model, control and control.model) == (
        "hstu(memory='mla()')",
        "hstu(memory='control(gate=4)')",
    )
    (said,) = standings.findings(only([*REFERENCES, gains, far, near]))
    assert "`hstu(memory='mla()')` (+500 parameters) reaches 105.0%" in said
    assert "(+600 parameters), which compresses nothing, 105.0%" in said
    assert standings.findings(only([*REFERENCES, gains, far])) == []
    fewer = identity("hstu(width=8, memory='mqa()')", parameters=900)
    assert standings.controls(only([*REFERENCES, fewer, near])) == []


def test_claims_are_reached_or_missed_online() -> None:
    first, second = standings.claims(only([*REFERENCES, *both(A, 512, 0.97, 500, drift=0.03)]))
    assert first == (
        "**0.8% of the full state keeps at least 99.5%, online**: reached, `recent(keep=512) | "
        "int8()` keeps 100.0% (99.0% to 101.0%) in 500 B, 0.50% of 97.7 KB."
    )
    assert second.endswith("missed, for nothing measured fits 250 B.")


def test_a_claim_of_a_trained_method_is_beside_that_of_the_full_model() -> None:
    model = "hstu(width=8, memory='mqa()')"
    rows = [*REFERENCES, *both(A, 256, 0.9, 240), *both(A, 256, 0.99, 240, backbone=model)]
    _, second = standings.claims(only(rows))
    trained, codec = second.split(" On the full model: ")
    assert "reached, `recent(keep=256) | int8()` on `hstu(memory='mqa()')` keeps 99.0%" in trained
    assert codec.startswith("missed, `recent(keep=256) | int8()` keeps 90.0% (89.0% to 91.0%)")


def test_each_method_has_a_line_of_its_own() -> None:
    rows = [*REFERENCES, *both(A, 64, 0.8, 60, drift=-0.1), *both(A, 512, 0.9, 500)]
    said = standings.measured(standings.of([*rows, *[r | {"data": "books"} for r in rows]]))
    assert said["codecs", "int8"] == (
        "**Measured**, of the full model's NDCG@10 ([how](catalogue.md)): "
        "films: 80.0%▾ in 60 B, 90.0% in 500 B; books: 80.0%▾ in 60 B, 90.0% in 500 B."
    )
    assert set(said) == {("codecs", "int8")}  # nothing of methods without rows or within no budget


def test_the_picture_lies_inside_its_frame() -> None:
    rows = [*REFERENCES, *both(A, 64, 0.05, 60), *both(B, 65536, 1.3, 65000)]
    drawn = ET.fromstring(standings.drawing(only(rows)))
    lines = [e.get("points", "") for e in drawn.iter() if e.tag.endswith("polyline")]
    places = [tuple(map(float, p.split(","))) for line in lines for p in line.split()]
    assert len(places) == 3  # the window counts as an eviction and as a precision
    assert all(60 <= x <= 790 and 30 <= y <= 420 for x, y in places)


def test_a_terminal_shows_a_catalogue_as_one_table() -> None:
    rows = [*REFERENCES, offline(A, 64, 0.8, 60)]
    assert "kept of a user" in str(tables(rows)[0])
    rows += [offline(f"recent(keep={n}) | int8()", 64, 0.5, 60) for n in range(10, MANY + 10)]
    other = [row | {"data": "books"} for row in REFERENCES]
    text = "\n\n".join(map(str, tables([*rows, *other])))
    assert text.startswith("films, leave_last_out: % of the NDCG@10 of hstu(width=8) kept")
    assert re.search(r"precision +int8 +80\.0", text)
    assert "books, leave_last_out, hstu(width=8)\nkept of a user" in text
    assert "films, leave_last_out, hstu" not in text

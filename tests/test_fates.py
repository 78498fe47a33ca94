"""What became of events, where it is known by arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gistrec import backbones, codecs
from gistrec.dataset import History
from gistrec.fates import fates
from gistrec.state import UserState
from gistrec.testing.data import sample_state


def told(spec: str, full: UserState, known: list[bool] | None = None) -> list[str]:
    chain = codecs.parse(spec).fit([full, sample_state(3), sample_state(9)])
    held = chain.decode(chain.encode(full))
    found = fates(held, full, chain, np.array(known or [True] * full.length, bool))
    return [run.fate for run in found for _ in range(run.events)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("identity()", ["kept"] * 11),
        ("int8()", ["kept"] * 11),
        ("recent(keep=4, sink=0) | int8()", ["forgotten"] * 7 + ["kept"] * 4),
        ("recent(keep=4, sink=1)", ["kept"] + ["forgotten"] * 7 + ["kept"] * 3),
        ("groupmean(group=2, window=3)", ["merged", "kept"] * 4 + ["kept"] * 3),
        (
            "recent(keep=8, sink=0) | groupmean(group=2, window=2)",
            ["forgotten"] * 3 + ["kept"] + ["merged", "kept"] * 2 + ["kept"] * 3,
        ),
    ],
)
def test_of_chains(spec: str, expected: list[str]) -> None:
    assert told(spec, sample_state(12)) == [*expected, "waiting"]


def test_merging_forgets_nothing() -> None:
    found = told("mergeevict(keep=6, sink=1, window=2) | int8()", sample_state(40))
    assert found.count("kept") == 6
    assert set(found) == {"kept", "merged", "waiting"}


def test_what_was_merged_and_then_dropped_is_forgotten() -> None:
    found = told("groupmean(group=2, window=0) | recent(keep=2, sink=0)", sample_state(13))
    assert found == ["forgotten"] * 8 + ["merged", "kept"] * 2 + ["waiting"]


def test_an_item_that_the_model_does_not_know_is_in_the_log_only() -> None:
    known = [True, False, True, True, False]
    full = sample_state(3)
    assert told("identity()", full, known) == ["kept", "unknown", "kept", "waiting", "unknown"]


@pytest.mark.parametrize("length", [0, 1])
def test_nearly_no_history(length: int) -> None:
    assert told("recent(keep=4, sink=0)", sample_state(length)) == ["waiting"] * length


def test_a_memory_without_slots_sums_up() -> None:
    backbone = backbones.build("rwkv()", num_items=30).eval()
    (full,) = backbone.prefill([History(np.arange(5), np.arange(5))], hints=True)
    assert told_of_model(full) == ["summed"] * 4 + ["waiting"]


def test_a_memory_that_keeps_some_slots() -> None:
    backbone = backbones.build("hstu(memory='beacon(chunk=4)')", num_items=30).eval()
    (full,) = backbone.prefill([History(np.arange(11), np.arange(11))], hints=True)
    expected = ["summed"] * 3 + ["kept"] + ["summed"] * 3 + ["kept"] * 3
    assert told_of_model(full) == [*expected, "waiting"]


def told_of_model(full: UserState) -> list[str]:
    chain = codecs.parse("identity()")
    found = fates(full, full, chain, np.ones(full.length, bool))
    return [run.fate for run in found for _ in range(run.events)]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 3))
def test_every_event_has_one_fate_and_every_slot_one_kept_event(
    length: int, keep: int, sink: int
) -> None:
    full = sample_state(length)
    found = told(f"recent(keep={keep + sink}, sink={sink})", full)
    assert len(found) == length
    assert found.count("kept") == min(keep + sink, full.num_slots)
    assert torch.equal(full.tensors["time"], sample_state(length).tensors["time"])

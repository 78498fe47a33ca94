import math

import pytest
import torch

from gistrec import memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Size
from gistrec.testing.backbones import StateTests
from gistrec.testing.memories import MemoryTests, PlainReader

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)
MEMORY = "linformer(slots=4)"


class TestLinformer(MemoryTests):
    spec = MEMORY


class TestHSTULinformer(StateTests):
    spec = f"hstu(width=16, dropout=0.0, memory={MEMORY!r})"


class TestSASRecLinformer(StateTests):
    spec = f"sasrec(width=16, dropout=0.0, memory={MEMORY!r})"


def context_of(users, events, queries=1):
    position = torch.arange(events)[None]
    real = torch.ones(users, events, dtype=torch.bool)
    return Context(position.repeat(1, queries), position, torch.ones(1, 1) > 0, real, None)


def test_what_is_read_follows_the_formula():
    memory = memories.build(MEMORY, SIZE).eval()
    x_BSD = torch.randn(2, 150, 16)
    q_BHSK = torch.randn(2, 2, 150, 8)
    y_BHSK, held = memory.attend(x_BSD, q_BHSK, None, PlainReader(context_of(2, 150)))
    new = memory.write(x_BSD)
    rate_Hm = memory.rate.sigmoid() / 4
    for t in (0, 70, 149):
        age_S = t - torch.arange(t + 1)
        e_BHSm = new["place"][:, :, : t + 1] * (-rate_Hm[:, None] * age_S[:, None]).exp()
        e_BHmS = (e_BHSm / e_BHSm.sum(2, keepdim=True)).transpose(-1, -2)
        k_BHmK, v_BHmK = e_BHmS @ new["k"][:, :, : t + 1], e_BHmS @ new["v"][:, :, : t + 1]
        a_BH1m = (q_BHSK[:, :, t : t + 1] @ k_BHmK.transpose(-1, -2)).softmax(-1)
        torch.testing.assert_close(y_BHSK[:, :, t : t + 1], a_BH1m @ v_BHmK)
    torch.testing.assert_close(held["fixed.k"] / held["fixed.weight"], k_BHmK)


def test_rows_span_8_to_4096_events_at_first():
    memory = memories.build(MEMORY, SIZE)
    span_Hm = 1 / (memory.rate.sigmoid() / 4)
    torch.testing.assert_close(span_Hm[1], torch.tensor([8.0, 64.0, 512.0, 4096.0]))


def test_ten_thousand_events_stay_finite_and_grow_with_the_span_only():
    memory = memories.build(MEMORY, SIZE).eval()
    with torch.no_grad():
        memory.rate[0] = 30.0  # the fastest
        x_BSD = torch.randn(1, 10_000, 16)
        y_BHSK, held = memory.attend(
            x_BSD, torch.randn(1, 2, 10_000, 8), None, PlainReader(context_of(1, 10_000))
        )
    assert bool(y_BHSK.isfinite().all())
    assert held["fixed.weight"][0, 0].max() < 1 / (1 - math.exp(-0.25))
    mean = held["fixed.k"] / held["fixed.weight"]
    assert mean.abs().max() < memory.write(x_BSD)["k"].abs().max()


def test_padding_and_further_queries_change_nothing():
    memory = memories.build(MEMORY, SIZE).eval()
    x_BSD, q_BHSK = torch.randn(2, 90, 16), torch.randn(2, 2, 90, 8)
    context = context_of(2, 90, queries=2)
    context.real_BS[1, 70:] = False
    twice = torch.cat([q_BHSK, q_BHSK], dim=2)
    y_BHQK, held = memory.attend(x_BSD, twice, None, PlainReader(context))
    torch.testing.assert_close(y_BHQK[:, :, :90], y_BHQK[:, :, 90:])
    short, alone = memory.attend(
        x_BSD[1:, :70], q_BHSK[1:, :, :70], None, PlainReader(context_of(1, 70))
    )
    torch.testing.assert_close(y_BHQK[1:, :, :70], short)
    for name, rows in alone.items():
        torch.testing.assert_close(held[name][1:], rows)


def test_there_are_no_rows_of_events_to_share():
    memory = memories.build(MEMORY, SIZE)
    reader = PlainReader(context_of(1, 3))
    memory.attend(torch.randn(1, 3, 16), torch.randn(1, 2, 3, 8), None, reader)
    with pytest.raises(ConfigError, match="keeps no rows of events"):
        reader.context.below[0]()


def test_no_rows_are_refused():
    with pytest.raises(ConfigError, match="slots"):
        memories.build("linformer(slots=0)", SIZE)

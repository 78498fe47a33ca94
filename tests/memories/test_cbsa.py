import math

import pytest
import torch

from gistrec import memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Size
from gistrec.testing.backbones import StateTests
from gistrec.testing.memories import MemoryTests, PlainReader

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)
MEMORY = "cbsa(slots=4)"


class TestCBSA(MemoryTests):
    spec = MEMORY


class TestHSTUCBSA(StateTests):
    spec = f"hstu(width=16, dropout=0.0, memory={MEMORY!r})"


class TestSASRecCBSA(StateTests):
    spec = f"sasrec(width=16, dropout=0.0, memory={MEMORY!r})"


def context_of(users, events, queries=1):
    position = torch.arange(events)[None]
    real = torch.ones(users, events, dtype=torch.bool)
    return Context(position.repeat(1, queries), position, torch.ones(1, 1) > 0, real, None)


def test_what_is_read_follows_the_formula():
    memory = memories.build(MEMORY, SIZE).eval()
    x_BSD = torch.randn(2, 100, 16)
    q_BHSK = torch.randn(2, 2, 100, 8)
    y_BHSK, _ = memory.attend(x_BSD, q_BHSK, None, PlainReader(context_of(2, 100)))
    z_BHSK = memory.write(x_BSD)["z"]
    for t in (0, 63, 64, 99):
        past_BHSK = z_BHSK[:, :, : t + 1]
        score_BHmS = memory.first @ past_BHSK.transpose(-1, -2) / 8**0.5
        a_BHmS = (8 * (score_BHmS / 8).tanh()).softmax(-1)
        r_BHmK = memory.first + memory.eta * (a_BHmS @ past_BHSK)
        d_BHmK = (r_BHmK @ r_BHmK.transpose(-1, -2) / 8**0.5).softmax(-1) @ r_BHmK
        a_BH1m = (q_BHSK[:, :, t : t + 1] @ r_BHmK.transpose(-1, -2)).softmax(-1)
        torch.testing.assert_close(y_BHSK[:, :, t : t + 1], a_BH1m @ d_BHmK)


def test_without_a_step_the_representatives_say_nothing_of_the_history():
    memory = memories.build(MEMORY, SIZE).eval()
    with torch.no_grad():
        memory.eta.zero_()
    q_BHSK = torch.randn(1, 2, 5, 8)
    here, there = (
        memory.attend(torch.randn(1, 5, 16), q_BHSK, None, PlainReader(context_of(1, 5)))[0]
        for _ in range(2)
    )
    torch.testing.assert_close(here, there)


def test_huge_scores_do_not_overflow_in_ten_thousand_events():
    memory = memories.build(MEMORY, SIZE).eval()
    with torch.no_grad():
        memory.first *= 1000
        x_BSD, q_BHSK = torch.randn(1, 10_000, 16), torch.randn(1, 2, 10_000, 8)
        y_BHSK, held = memory.attend(x_BSD, q_BHSK, None, PlainReader(context_of(1, 10_000)))
    assert bool(y_BHSK.isfinite().all())
    assert held["fixed.den"].max() < 10_001 * math.exp(8)


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


def test_a_user_without_any_event_in_the_batch_reads_something_finite():
    memory = memories.build(MEMORY, SIZE).eval()
    context = context_of(2, 5)
    context.real_BS[1] = False
    q_BHSK = torch.randn(2, 2, 5, 8)
    y_BHSK, held = memory.attend(torch.randn(2, 5, 16), q_BHSK, None, PlainReader(context))
    assert bool(y_BHSK.isfinite().all())
    assert not held["fixed.den"][1].any()


def test_there_are_no_rows_of_events_to_share():
    memory = memories.build(MEMORY, SIZE)
    reader = PlainReader(context_of(1, 3))
    memory.attend(torch.randn(1, 3, 16), torch.randn(1, 2, 3, 8), None, reader)
    with pytest.raises(ConfigError, match="keeps no rows of events"):
        reader.context.below[0]()


def test_no_representatives_are_refused():
    with pytest.raises(ConfigError, match="slots"):
        memories.build("cbsa(slots=0)", SIZE)

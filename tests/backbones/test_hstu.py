from pathlib import Path

import numpy as np
import pytest
import torch

from gistrec import backbones
from gistrec.backbones._blocks import ItemHead
from gistrec.dataset import Batch
from gistrec.errors import ConfigError
from gistrec.testing.backbones import NUM_ITEMS, BackboneTests, GoldenBackboneTests, random_history

ITEMS, WIDTH = 12, 8

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestHSTU(GoldenBackboneTests):
    spec = "hstu(width=16)"
    golden = GOLDEN / "hstu.losses.txt"


class TestOwnTime(BackboneTests):
    spec = "hstu(width=16, request_time=False)"


class TestRepeats(BackboneTests):
    spec = "hstu(width=16, repeats=True, negatives=8)"


class TestCollectiveMemory(BackboneTests):
    spec = "hstu(width=16, memory='collective(own=4, pool=8)')"


def test_the_request_time_changes_scores_only_where_it_is_used():
    history = random_history(20)
    now = int(history.timestamp[-1])
    for used in (True, False):
        torch.manual_seed(0)
        net = backbones.build(f"hstu(width=16, request_time={used})", num_items=NUM_ITEMS)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state = net.prefill([history])
        soon, late = net.score(state, at=[now]), net.score(state, at=[now + 10_000_000])
        assert torch.equal(soon, late) != used


def test_repeats_raise_items_of_the_history_and_only_those():
    net = backbones.build("hstu(width=16, repeats=True)", num_items=NUM_ITEMS)
    history = random_history(6)
    state = net.prefill([history])
    with_repeats = net.score(state)[0]
    net.head.repeats.weights.data[0] = -100.0
    gain = with_repeats - net.score(state)[0]
    assert set(torch.nonzero(gain > 1e-3)[:, 0].tolist()) == set(history.item_index.tolist())


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ConfigError, match="width 10 is not a multiple of num_heads 4"):
        backbones.build("hstu(width=10, num_heads=4)", num_items=5)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        backbones.build("hstu(widht=10)", num_items=5)


def basket_batch() -> Batch:
    """Two users, one with a padded end; a query at the first event, pairs new, bought, repeated."""
    item_BS = torch.tensor([[3, 5, 3, 7, 5, 1], [2, 2, 9, 4, ITEMS, ITEMS]])
    time_BS = 1_600_000_000 + torch.tensor([0, 60, 90_000, 90_000, 10**6, 10**7]).expand(2, -1)
    return Batch(
        item_BS=item_BS,
        time_BS=time_BS,
        next_time_BS=time_BS + 3600,
        query_row_Q=torch.tensor([0, 0, 1]),
        query_position_Q=torch.tensor([0, 4, 3]),
        pair_query_P=torch.tensor([0, 1, 1, 1, 2, 2]),
        pair_item_P=torch.tensor([5, 3, 7, 11, 2, 0]),
    )


@pytest.mark.parametrize("negatives", [0, 1, 50])
def test_the_loss_of_baskets_with_repeats_is_that_of_the_scores(negatives):
    torch.manual_seed(0)
    head = ItemHead(ITEMS, WIDTH, temperature=0.2, negatives=negatives, repeats=True)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    head.prior.copy_(torch.rand(ITEMS))
    batch, h_BSD = basket_batch(), torch.randn(2, 6, WIDTH, requires_grad=True)
    row, position = batch.query_row_Q, batch.query_position_Q
    leaves = [h_BSD, *head.parameters()]

    def gradients(loss):
        return torch.autograd.grad(loss, leaves)

    item_C, log_weight_C, _ = head._candidates(batch, torch.Generator().manual_seed(3))
    weight_QT = head.repeats.weight(
        batch.next_time_BS[row, position][:, None] - batch.time_BS[row],
        (torch.arange(6) <= position[:, None]) & (batch.item_BS[row] < ITEMS),
    )
    score_QV = head.repeats.join(
        head.score(h_BSD[row, position]),
        weight_QT,
        batch.item_BS[row].clamp(max=ITEMS - 1),
        None,
        head.prior,
    )
    score_QC = score_QV if item_C is None else score_QV[:, item_C] + log_weight_C
    wanted_P = score_QV[batch.pair_query_P, batch.pair_item_P]
    wanted = (score_QC.logsumexp(1)[batch.pair_query_P] - wanted_P).mean()
    found = head.loss(h_BSD, batch, batch.next_time_BS, torch.Generator().manual_seed(3))
    np.testing.assert_allclose(found.item(), wanted.item(), rtol=1e-5)
    for a, b in zip(gradients(found), gradients(wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

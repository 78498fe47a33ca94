import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gistrec import backbones, ranking
from gistrec.backbones import Backbone
from gistrec.errors import ConfigError
from gistrec.testing.rankers import (
    GoldenRankerTests,
    RankerTests,
    acted_history,
    build,
    taste_impressions,
    train_losses,
)
from gistrec.train import train

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"
SPEC = "tarq(width=16)"


class TestTARQ(GoldenRankerTests):
    spec = SPEC
    golden = GOLDEN / "tarq.losses.txt"


class TestThreeLevels(RankerTests):
    spec = "tarq(width=16, levels=3, codes=8)"


@pytest.fixture(scope="module")
def net() -> Backbone:
    return build(SPEC)


def test_items_of_the_same_codes_differ_by_what_is_their_own(net):
    (state,) = net.prefill([acted_history(30)])
    net.code_VL[:2] = net.code_VL[0]
    net.own_VT[:2], net.vector_VD[:2] = net.own_VT[0], net.vector_VD[0]
    a, b = net.score([state])[0, :2]
    assert a == b
    net.own_VT[1] += 1
    torch.testing.assert_close(net.score([state])[0, 1], b + 1)


def test_codewords_stand_for_the_vectors():
    shown = taste_impressions()
    net = train(shown, SPEC, epochs=10, max_len=64, batch_tokens=600, learning_rate=0.02).backbone
    x_VD = net.vector_VD
    met_VD = sum(book[net.code_VL[:, n].long()] for n, book in enumerate(net.codebook))
    assert (x_VD - met_VD).square().sum() < 0.3 * (x_VD - x_VD.mean(0)).square().sum()
    assert len(net.code_VL[:, 0].unique()) > 4


def test_unused_codewords_begin_anew():
    net = build(SPEC)
    with torch.no_grad():
        net.codebook[0, 5] = 1e3
    x_ND = torch.randn(50, 16)
    for _ in range(3000):
        net._renew(x_ND, net.codes_of(x_ND))
        if net.codebook[0, 5].abs().max() < 100:
            return
    pytest.fail("a codeword that nobody uses stays")


def test_a_student_learns_its_teacher():
    shown = taste_impressions()
    settings = {"epochs": 12, "max_len": 64, "batch_tokens": 600, "learning_rate": 0.03}
    teacher = train(shown, "twin(width=16, dropout=0.0)", **settings).backbone
    told = ranking.taught(teacher, shown)
    train_part, test = shown.part("train"), shown.part("test")
    assert np.isnan(told.soft_NT[test]).all()
    assert not np.isnan(told.soft_NT[train_part]).any()
    wrong = told.soft_NT.copy()
    wrong[train_part] = 1 - shown.label_NT[train_part]
    spec = "tarq(width=16, dropout=0.0, item_features=2)"
    with_teacher = train_losses(spec, told, steps=80)
    misled = train_losses(spec, dataclasses.replace(told, soft_NT=wrong), steps=80)
    assert np.mean(with_teacher[-10:]) < 0.9 * np.mean(misled[-10:])


def test_wrong_options_are_told():
    for spec in ("tarq(levels=0)", "tarq(codes=1)", "tarq(codes=257)"):
        with pytest.raises(ConfigError, match="at least one level and 2 to 256 codes"):
            backbones.build(spec, num_items=5)

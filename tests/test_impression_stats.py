import dataclasses

import numpy as np

from gistrec.impression_stats import describe
from gistrec.testing.rankers import taste_impressions


def test_figures():
    shown = taste_impressions(users=4, length=50, labels=2)
    label = shown.label_NT.copy()
    label[:20, 1] = np.nan
    found = describe(dataclasses.replace(shown, label_NT=label))
    assert (found.impressions, found.users, found.items, found.events) == (200, 4, 24, 200)
    assert found.labels["liked"].known == 200
    assert found.labels["liked"].positive == label[:, 0].sum()
    assert found.labels["label_1"].known == 180
    assert (found.length_median, found.length_max) == (24.5, 49)
    assert found.no_history_share == 4 / 200
    parts = {name: part.impressions for name, part in found.parts.items()}
    assert sum(parts.values()) == 200
    assert parts["train"] == 160
    assert found.parts["test"].first_time > found.parts["train"].first_time
    assert found.contexts == ("hour",)


def test_lines():
    lines = describe(taste_impressions(users=4, length=50)).lines()
    assert any(line.startswith("label liked") and "of all" in line for line in lines)
    assert any(line.startswith("test") and "impressions of 4 users" in line for line in lines)

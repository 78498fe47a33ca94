import re
from pathlib import Path

import numpy as np
import pytest

from gistrec.errors import DataError
from gistrec.events import Events, read
from gistrec.log_stats import describe

SHARED = Path(__file__).parents[2] / "shared" / "data"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_figures() -> None:
    events = Events(ints(1, 1, 1, 1, 2), ints(7, 8, 7, 7, 9), ints(0, 0, 0, 86400, 86400))
    stats = describe(events)
    assert (stats.users, stats.items, stats.events) == (2, 3, 5)
    assert (stats.first_time, stats.last_time) == ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")
    assert (stats.length_mean, stats.length_median, stats.length_max) == (2.5, 2.5, 4)
    assert stats.length_p90 == pytest.approx(3.7)
    assert (stats.users_500, stats.users_1000, stats.single_event_users) == (0, 0, 1)
    assert stats.ties_share == pytest.approx(2 / 5)  # not user 2's event, whose time is user 1's
    assert stats.repeats_share == pytest.approx(2 / 5)


def test_long_histories_and_text_ids() -> None:
    user = np.repeat(np.array(["a", "b", "c"], object), [499, 500, 1000])
    item = np.array(["x", "y"], object)[np.arange(1999) % 2]
    stats = describe(Events(user, item, np.arange(1999)))
    assert (stats.users_500, stats.users_1000, stats.items) == (2, 1, 2)
    assert stats.repeats_share == pytest.approx(1 - 6 / 1999)
    assert stats.ties_share == 0


def test_lines_hold_every_figure() -> None:
    stats = describe(Events(ints(*[1] * 1200), ints(*range(1200)), ints(*range(1200))))
    text = "\n".join(stats.lines())
    assert re.search(r"^events +1,200$", text, re.MULTILINE)
    assert "mean 1,200.0, median 1,200, p90 1,200, max 1,200" in text
    assert "1 users with 500 events or more, 1 with 1,000 or more" in text
    assert "0.0% of events are of an item the user had before" in text


def test_no_events() -> None:
    with pytest.raises(DataError, match="the log has no events"):
        describe(Events(ints(), ints(), ints()))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared copy of the data")
@pytest.mark.parametrize(
    "name",
    [
        "completejourney",
        "ml-1m",
        "ml-latest-small",
        "ml-100k",
        "food",
        "amazon-beauty",
        "kuairand-pure-14d",
    ],
)
def test_equals_the_published_table(name: str) -> None:
    row = re.search(rf"^\| {name} \|.*", (SHARED / "README.md").read_text(), re.MULTILINE)
    assert row
    users, items, events, lengths, long, ties = row[0].replace(",", "").split("|")[2:8]
    mean, median, p90, longest = map(float, lengths.split("/"))
    stats = describe(read(SHARED / f"{name}.parquet"))
    assert (stats.users, stats.items, stats.events) == (int(users), int(items), int(events))
    assert stats.length_mean == pytest.approx(mean, abs=0.5)
    assert stats.length_median == pytest.approx(median, abs=0.5)
    assert stats.length_max == longest
    assert stats.length_p90 == pytest.approx(p90, abs=1)
    assert [stats.users_500, stats.users_1000] == [int(one) for one in long.split("/")]
    assert stats.ties_share == pytest.approx(float(ties.strip(" %")) / 100, abs=0.005)

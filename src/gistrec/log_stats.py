"""What a log looks like: the figures that say whether a long memory can matter."""

import dataclasses
from datetime import UTC, datetime

import numpy as np

from gistrec.errors import DataError
from gistrec.events import Events


@dataclasses.dataclass(frozen=True)
class LogStats:
    """Figures of a log; lengths are events per user, shares are of all events."""

    users: int
    items: int
    events: int
    first_time: str
    """Time of the oldest event, ISO 8601, UTC."""
    last_time: str
    length_mean: float
    length_median: float
    length_p90: float
    length_max: int
    users_500: int
    """Users with at least 500 events."""
    users_1000: int
    """Users with at least 1,000 events."""
    single_event_users: int
    """Users with one event, of whom nothing can be predicted and checked."""
    ties_share: float
    """Events with the same time as the same user's event before: their order is the source's."""
    repeats_share: float
    """Events whose item the user has had before."""

    def lines(self) -> list[str]:
        """The figures for people, one a line."""
        table = {
            "users": f"{self.users:,}",
            "items": f"{self.items:,}",
            "events": f"{self.events:,}",
            "time": f"{self.first_time} to {self.last_time}",
            "events per user": f"mean {self.length_mean:,.1f}, median {self.length_median:,.0f}, "
            f"p90 {self.length_p90:,.0f}, max {self.length_max:,}",
            "long histories": f"{self.users_500:,} users with 500 events or more, "
            f"{self.users_1000:,} with 1,000 or more",
            "single-event users": f"{self.single_event_users:,}",
            "ties": f"{self.ties_share:.1%} of events share the time of the one before",
            "repeats": f"{self.repeats_share:.1%} of events are of an item the user had before",
        }
        width = max(map(len, table))
        return [f"{name:<{width}}  {figure}" for name, figure in table.items()]


def describe(events: Events) -> LogStats:
    """Count a log.

    Raises:
        DataError: it has no events.
    """
    total = len(events)
    if not total:
        raise DataError("the log has no events, so there is nothing to describe")
    same_user = events.user_id[1:] == events.user_id[:-1]
    user_index = np.concatenate([[0], np.cumsum(~same_user)])
    lengths = np.bincount(user_index)
    items, item_index = np.unique(events.item_id, return_inverse=True)
    # sorting beats np.unique's hash table a hundred times, because users come in order
    pairs = np.sort(user_index * len(items) + item_index)
    repeats = np.count_nonzero(pairs[1:] == pairs[:-1])
    ties = np.count_nonzero(same_user & (np.diff(events.timestamp) == 0))
    return LogStats(
        users=len(lengths),
        items=len(items),
        events=total,
        first_time=iso(int(events.timestamp.min())),
        last_time=iso(int(events.timestamp.max())),
        length_mean=float(lengths.mean()),
        length_median=float(np.median(lengths)),
        length_p90=float(np.percentile(lengths, 90)),
        length_max=int(lengths.max()),
        users_500=int(np.count_nonzero(lengths >= 500)),
        users_1000=int(np.count_nonzero(lengths >= 1000)),
        single_event_users=int(np.count_nonzero(lengths == 1)),
        ties_share=float(ties / total),
        repeats_share=float(repeats / total),
    )


def iso(timestamp: int) -> str:
    """Unix seconds as ISO 8601, UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

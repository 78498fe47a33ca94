"""What impressions look like: labels, histories, parts."""

import dataclasses

import numpy as np

from gistrec.impressions import PARTS, Impressions
from gistrec.log_stats import iso


@dataclasses.dataclass(frozen=True)
class LabelStats:
    """Figures of a label."""

    known: int
    """Impressions of which it is known."""
    positive: int
    """Of these, those with 1."""


@dataclasses.dataclass(frozen=True)
class PartStats:
    """Figures of a part."""

    impressions: int
    users: int
    first_time: str
    """ISO 8601, UTC."""


@dataclasses.dataclass(frozen=True)
class ImpressionStats:
    """Figures of impressions; lengths are events of a history when the impression was made."""

    impressions: int
    users: int
    """Users with impressions."""
    items: int
    """Of impressions and histories."""
    events: int
    """Of all histories."""
    labels: dict[str, LabelStats]
    contexts: tuple[str, ...]
    features: int
    """Most features that an item has."""
    length_mean: float
    length_median: float
    length_p90: float
    length_max: int
    no_history_share: float
    """Impressions of users with no history then."""
    parts: dict[str, PartStats]

    def lines(self) -> list[str]:
        """The figures for people, one a line."""
        table = {
            "impressions": f"{self.impressions:,}",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}, with up to {self.features} features",
            "history events": f"{self.events:,}",
            "history length": f"mean {self.length_mean:,.1f}, median {self.length_median:,.0f}, "
            f"p90 {self.length_p90:,.0f}, max {self.length_max:,}; "
            f"{self.no_history_share:.1%} of impressions have none",
            "context": ", ".join(self.contexts) or "none",
        }
        for name, label in self.labels.items():
            share = f"{label.positive / label.known:.1%}" if label.known else "none"
            known = "all" if label.known == self.impressions else f"{label.known:,}"
            table[f"label {name}"] = f"{label.positive:,} positive, {share} of {known}"
        for name, part in self.parts.items():
            table[name] = (
                f"{part.impressions:,} impressions of {part.users:,} users from {part.first_time}"
            )
        width = max(map(len, table))
        return [f"{name:<{width}}  {figure}" for name, figure in table.items()]


def describe(impressions: Impressions) -> ImpressionStats:
    """Count impressions.

    Raises:
        DataError: a part has none.
    """
    lengths = impressions.lengths
    parts: dict[str, PartStats] = {}
    for name in PARTS:
        numbers = impressions.part(name)
        parts[name] = PartStats(
            len(numbers),
            len(np.unique(impressions.user[numbers])),
            iso(int(impressions.timestamp[numbers].min())),
        )
    return ImpressionStats(
        impressions=len(impressions),
        users=len(np.unique(impressions.user)),
        items=impressions.num_items,
        events=len(impressions.dataset.item_index),
        labels={
            name: LabelStats(int((~np.isnan(label_N)).sum()), int(np.nansum(label_N)))
            for name, label_N in zip(impressions.labels, impressions.label_NT.T, strict=True)
        },
        contexts=impressions.contexts,
        features=impressions.feature_VF.shape[1],
        length_mean=float(lengths.mean()),
        length_median=float(np.median(lengths)),
        length_p90=float(np.percentile(lengths, 90)),
        length_max=int(lengths.max()),
        no_history_share=float((lengths == 0).mean()),
        parts=parts,
    )

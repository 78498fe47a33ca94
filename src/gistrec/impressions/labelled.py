"""Impressions from a file with a label column: ratings, clicks, exposures with several labels.

    labelled(path='ml-1m.parquet', label='rating', positive=4)
    labelled(path='log.csv', label='is_click|is_like', context='tab', items='videos.parquet',
             features='author_id|tag')

Every row is an impression. It is also an event of the history from the next second on, with its
labels as bits of the action (bit t of label t), or only where the first label is 1
(`history='positive'`). Other formats of other tools are a matter of column names: FuxiCTR's and
RecBole's files with a label, an item, a user and a time are read with `user=`, `item=`, `time=`.

Cost: what the log costs to read (see `parquet`), and 8 bytes per impression and column.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gistrec import events, registry
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events
from gistrec.impressions import Impressions, ImpressionSource, gather
from gistrec.impressions._features import check, read_features


@dataclasses.dataclass(frozen=True)
class Labelled(ImpressionSource):
    """Rows of a Parquet, CSV or TSV file."""

    path: str
    label: str
    """Columns of labels, `is_click|is_like`, eight at most; the first one ranks."""
    positive: float | None = None
    """From which value on labels are 1; None: they are 0 or 1 as they stand."""
    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    time_unit: Literal["s", "ms", "us"] = "s"
    context: str = ""
    """Columns of what is known of an impression before it is answered, as categories."""
    items: str = ""
    """File with `item_id` and columns of features."""
    features: str = ""
    """Columns of item features in it; a text such as `Drama|War` has several values."""
    history: Literal["all", "positive"] = "all"

    def __post_init__(self) -> None:
        if not self.label or len(self.label.split("|")) > 8:
            raise ConfigError(f"label takes one to eight columns, a|b|c, given {self.label!r}")
        if self.history not in ("all", "positive"):
            raise ConfigError(f"history takes all or positive, given {self.history!r}")
        check(self.items, self.features)

    def read(self) -> Impressions:
        """Read the file.

        Raises:
            DataError: naming the file, the column and what to do.
        """
        names = self.label.split("|")
        contexts = [name for name in self.context.split("|") if name]
        log = self._log("|".join([*names, *contexts]))
        labels = {name: self._label(name, log.columns[name]) for name in names}
        label_TR: NDArray[np.float64] = np.stack(list(labels.values()))
        bit_TR = np.nan_to_num(label_TR).astype(np.int64) << np.arange(len(names))[:, None]
        shown: NDArray[np.bool_] = ~np.logical_and.reduce(np.isnan(label_TR))
        features = None
        if self.items:
            text_ids = log.item_id.dtype == object
            features = read_features(self.items, self.features, text_ids=text_ids)
        return gather(
            dataclasses.replace(log, action=bit_TR.sum(0), columns={}, source=self.path),
            labels,
            shown=shown,
            happened=np.ones_like(shown) if self.history == "all" else label_TR[0] == 1,
            context={name: log.columns[name] for name in contexts},
            features=features,
        )

    def _log(self, columns: str) -> Events:
        ending = Path(self.path).suffix.lower()
        kinds = [
            name
            for name in registry.names("events")
            if ending in registry.find("events", name).endings
            and "columns" in registry.options_of(registry.find("events", name))
        ]
        if not kinds:
            raise DataError(
                f"labelled takes a .parquet, .csv, .tsv or .inter file, given {self.path!r}: "
                "convert it"
            )
        options = {"user": self.user, "item": self.item, "time": self.time}
        options |= {"time_unit": self.time_unit, "columns": columns, "path": self.path}
        source: events.EventSource = registry.build("events", registry.Spec(kinds[0], options))
        return source.read()

    def _label(self, name: str, given: NDArray[Any]) -> NDArray[np.float64]:
        try:
            values = np.ma.filled(np.ma.asarray(given).astype(np.float64), np.nan)
        except (TypeError, ValueError):
            raise DataError(
                f"{self.path}: label {name!r} holds {given[0]!r}: labels are numbers"
            ) from None
        if self.positive is not None:
            values = np.where(np.isnan(values), np.nan, values >= self.positive)
        return np.asarray(values)

"""The laws of event sources. A new source's test is a subclass that writes a tiny log."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gistrec import registry
from gistrec.events import EventSource


class EventsTests:
    """What every `EventSource` must do.

    Example:
        class TestMySource(EventsTests):
            expected = [(1, 11, 100, None), (1, 10, 100, None), (2, 10, 50, None)]

            def source(self, folder):
                (folder / "log.my").write_text("2 10 50, 1 11 100, 1 10 100")
                return MySource(str(folder / "log.my"))
    """

    expected: ClassVar[list[tuple[Any, Any, int, int | None]]]
    """User, item, time and action of each event, in the order in which they must come. Have events
    of one user with equal times that are not in ascending order of their items."""
    num_events: ClassVar[int | None] = None
    """How many there are in all, where `expected` has only the first ones."""

    def source(self, folder: Path) -> EventSource:
        """The source of the log; `folder` is an empty one for its files."""
        raise NotImplementedError

    def test_known_log_is_read_right(self, tmp_path: Path) -> None:
        events = self.source(tmp_path).read()
        actions = [None] * len(events) if events.action is None else events.action.tolist()
        columns = (events.user_id, events.item_id, events.timestamp)
        rows = list(zip(*(column.tolist() for column in columns), actions, strict=True))
        assert rows[: len(self.expected)] == self.expected
        assert len(events) == (self.num_events or len(self.expected))

    def test_sorted_by_user_and_time(self, tmp_path: Path) -> None:
        events = self.source(tmp_path).read()
        same_user = events.user_id[1:] == events.user_id[:-1]
        assert np.all(same_user | (events.user_id[1:] > events.user_id[:-1]))
        assert np.all(~same_user | (np.diff(events.timestamp) >= 0))

    def test_columns_have_their_dtypes(self, tmp_path: Path) -> None:
        events = self.source(tmp_path).read()
        for ids in (events.user_id, events.item_id):
            assert ids.dtype == np.int64 or {type(one) for one in ids.tolist()} == {str}
        assert events.timestamp.dtype == np.int64
        assert events.timestamp.min() >= 0
        if events.action is not None:
            assert events.action.dtype == np.int64
            assert 0 <= events.action.min() <= events.action.max() <= 255

    def test_titles_are_text_by_item_id(self, tmp_path: Path) -> None:
        events = self.source(tmp_path).read()
        assert {type(one) for one in events.titles} <= {type(events.item_id.tolist()[0])}
        assert {type(title) for title in events.titles.values()} <= {str}

    def test_reads_the_same_every_time(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        first, second = source.read(), source.read()
        for column in ("user_id", "item_id", "timestamp"):
            assert getattr(first, column).tolist() == getattr(second, column).tolist()

    def test_its_spec_builds_it_again(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        (spec,) = registry.parse_spec(str(registry.spec_of(source)))
        assert registry.build("events", spec) == source

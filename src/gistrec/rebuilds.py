"""How many long rebuilds run at once: a new version must not stall those whose states are there."""

import contextlib
import os
import threading
from collections.abc import Iterator

from gistrec.errors import BusyError


class Rebuilds:
    """Lets a few long rebuilds run and some wait, first come first served; refuses the others.

    Args:
        at_once: How many run; None: one less than the processors, at least one.
        waiting: How many may wait.
        wait_s: How long each waits at most.
        long_events: From how many events on a rebuild counts as long.
    """

    def __init__(
        self,
        *,
        at_once: int | None = None,
        waiting: int = 64,
        wait_s: float = 5.0,
        long_events: int = 1000,
    ) -> None:
        self.at_once = at_once or max(1, (os.cpu_count() or 2) - 1)
        self.waiting = waiting
        self.wait_s = wait_s
        self.long_events = long_events
        self.started = 0
        """How many long rebuilds were let through."""
        self.refused = 0
        """How many were not."""
        self._running = 0
        self._queue: list[object] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, num_events: int) -> Iterator[None]:
        """Wait for a turn to replay so many events, and give it back at the end of the block.

        Raises:
            BusyError: too many are waiting, or the turn did not come in time.
        """
        if num_events < self.long_events:
            yield
            return
        me = object()
        with self._changed:
            full = len(self._queue) >= self.waiting and self._running >= self.at_once
            if not full:
                self._queue.append(me)
            if full or not self._changed.wait_for(lambda: self._is_next(me), self.wait_s):
                if not full:
                    self._queue.remove(me)
                    self._changed.notify_all()
                self.refused += 1
                raise BusyError(
                    f"a state of {num_events} events must be rebuilt, and {self.at_once} others "
                    f"are being rebuilt while {len(self._queue)} wait: try again, or build states "
                    "ahead with gistrec state build",
                    retry_after_s=self.wait_s,
                )
            self._queue.remove(me)
            self._running += 1
            self.started += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _is_next(self, me: object) -> bool:
        return self._running < self.at_once and self._queue[0] is me

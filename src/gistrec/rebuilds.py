"""How many long rebuilds run at once: a new version must not stall those whose states are there."""

import bisect
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gistrec.errors import BusyError, ConfigError


@dataclass(frozen=True, kw_only=True)
class RebuildLimits:
    """How many long rebuilds a process takes on.

    Raises:
        ConfigError: one of them is out of its range.
    """

    at_once: int = max(1, (os.cpu_count() or 2) - 1)
    """How many run; one less than the processors, at least one."""
    waiting: int = 64
    """How many may wait."""
    wait_s: float = 5.0
    """How long each waits at most."""
    long_events: int = 1000
    """From how many events on a rebuild counts as long; shorter ones never wait."""

    def __post_init__(self) -> None:
        for name, least in (("at_once", 1), ("waiting", 0), ("wait_s", 0), ("long_events", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(
                    f"{name} of rebuilds is {getattr(self, name)}, allowed is {least} or more: "
                    "give that"
                )


DEFAULT_LIMITS = RebuildLimits()


class Rebuilds:
    """Lets a few long rebuilds run and some wait, the oldest model's first; refuses the others.

    Args:
        limits: How many.
    """

    def __init__(self, limits: RebuildLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.started = 0
        """How many long rebuilds were let through."""
        self.refused = 0
        """How many were not."""
        self.on_wait: Callable[[], None] = lambda: None
        """Called in the thread that is about to wait, which may give back what others need."""
        self.on_change: Callable[[int, int], None] = lambda running, waiting: None
        """Called with how many run and how many wait, whenever that changes."""
        self._running = 0
        self._queue: list[tuple[int, int]] = []
        """Model and number of arrival of those who wait, first one first."""
        self._called: set[tuple[int, int]] = set()
        self._arrivals = itertools.count()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, num_events: int, *, model: int = 0, wait: bool = True) -> Iterator[None]:
        """Wait for a turn to replay so many events, and give it back at the end of the block.

        Args:
            num_events: How long the rebuild is.
            model: Place of the model among those that the store knows, oldest first. Where too many
                wait, the last one of the newest model has to go.
            wait: Whether to wait at all.

        Raises:
            BusyError: there is no turn, too many are waiting, or it did not come in time.
        """
        if num_events < self.limits.long_events:
            yield
            return
        me = (model, next(self._arrivals))
        with self._changed:
            if wait or (self._running < self.limits.at_once and not self._queue):
                bisect.insort(self._queue, me)
                self._call_next()
            waits = me in self._queue
        if waits:
            self.on_wait()
        with self._changed:
            self._changed.wait_for(lambda: me not in self._queue, self.limits.wait_s)
            if me not in self._called:
                raise self._refused(me, num_events)
            self._called.remove(me)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._call_next()

    def _call_next(self) -> None:
        """Give free turns to those who come first; who is one too many leaves the queue."""
        while self._queue and self._running < self.limits.at_once:
            self._called.add(self._queue.pop(0))
            self._running += 1
            self.started += 1
        del self._queue[self.limits.waiting :]
        self.on_change(self._running, len(self._queue))
        self._changed.notify_all()

    def _refused(self, me: tuple[int, int], num_events: int) -> BusyError:
        if me in self._queue:
            self._queue.remove(me)
        self.refused += 1
        self.on_change(self._running, len(self._queue))
        return BusyError(
            f"a state of {num_events} events must be rebuilt, and {self._running} others are being "
            f"rebuilt while {len(self._queue)} wait: try again, or build states ahead with gistrec "
            "state build",
            retry_after_s=self.limits.wait_s,
        )

"""How many requests may be open, and for how long: what comes beyond is refused, not queued.

A request is admitted before its body is read, so that open bodies are bounded as well, and counts
until its call has ended, also if its client was told of a timeout long before. Calls that wait for
others' long rebuilds do not keep those from running whose states are there.
"""

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from gistrec.server.errors import DeadlineError, NotBegunError, OverloadedError, SlowBodyError
from gistrec.server.settings import Settings

_APPENDS = 8
_PROBES = 2
T = TypeVar("T")


class Gate:
    """The worker threads of a server, and who may wait for them.

    Measured with 16 clients on two busy cores: with calls of 1 ms in worker threads /healthz
    answers in 1 ms, with calls in the event loop in 22 ms, at the same requests a second. The hop
    costs 0.05 ms (anyio.to_thread 0.1 ms).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limit = settings.in_flight + settings.waiting
        # those who wait for rebuilds keep their threads, so there may be as many as requests
        self._work = _Lane(settings.in_flight, self._limit, "gistrec")
        # probes and metrics are answered however many requests wait; one thread looks ahead
        self._probes = _Lane(_PROBES, _PROBES + 1, "gistrec-probe")
        self.aside = self._probes.pool
        """For what nobody waits for."""
        self.appending = ThreadPoolExecutor(_APPENDS, thread_name_prefix="gistrec-append")
        """For the users of a batch: their appends wait for the store together."""
        self._open = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admitted(self, *, aside: bool) -> Iterator["Admission"]:
        """One request, from before its body is read.

        Raises:
            OverloadedError: as many as allowed are open.
        """
        if not aside:
            with self._lock:
                if self._open >= self._limit:
                    raise OverloadedError(
                        f"{self._open} requests are open, allowed are {self._limit}: "
                        "try again in a second, or ask more servers"
                    )
                self._open += 1
        admission = Admission(self._probes if aside else self._work, self._settings.timeout_s)
        try:
            yield admission
        finally:
            if not aside:
                admission.when_over(self._leave)

    def step_aside(self) -> None:
        """Let another call run in place of this thread's, which is about to wait."""
        self._work.leave()

    def close(self) -> None:
        """Drop what waits, wait for what runs."""
        for pool in (self._work.pool, self.aside, self.appending):
            pool.shutdown(cancel_futures=True)

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1


class _Lane:
    """Threads for so many calls at the same time, first come first served."""

    def __init__(self, count: int, threads: int, name: str) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = count
        self._waiting: collections.deque[Future[None]] = collections.deque()
        self._lock = threading.Lock()
        self._here = threading.local()

    async def place(self, seconds: float) -> "_Place":
        """The right to run a call, when it is there.

        Raises:
            TimeoutError: it is not there in time.
        """
        asked: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                return _Place(self)
            self._waiting.append(asked)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(asked)
        except BaseException:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(asked)
            if not asked.cancel():  # it came at the last moment
                self.give_back()
            raise
        return _Place(self)

    def give_back(self) -> None:
        """A place, to who waits longest."""
        with self._lock:
            while self._waiting:
                asked = self._waiting.popleft()
                if asked.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        asked.set_result(None)

    def begin(self, call: Callable[[], T], place: "_Place") -> "Future[T]":
        """Run a call, which has the place until it ends or leaves it."""

        def run() -> T:
            self._here.place = place
            return call()

        future = self.pool.submit(run)
        future.add_done_callback(lambda _: place.leave())
        return future

    def leave(self) -> None:
        """Give back the place of this thread's call."""
        if place := getattr(self._here, "place", None):
            place.leave()


class _Place:
    """The right to run a call."""

    def __init__(self, lane: _Lane) -> None:
        self._lane: _Lane | None = lane

    def leave(self) -> None:
        """Give it back, once."""
        lane, self._lane = self._lane, None
        if lane:
            lane.give_back()


class Admission:
    """One request's time and place."""

    def __init__(self, lane: _Lane, timeout_s: float) -> None:
        self._lane = lane
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._future: Future[Any] | None = None

    async def receive(self, body: Awaitable[T]) -> T:
        """What is read from the client, in time.

        Raises:
            SlowBodyError: it took too long.
        """
        try:
            async with asyncio.timeout(self._left_s()):
                return await body
        except TimeoutError:
            raise SlowBodyError(
                f"the body did not arrive within {self._timeout_s:g} s: nothing was done; "
                "send it faster, or in several requests"
            ) from None

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result, from a worker thread, in time.

        Raises:
            NotBegunError: others were worked on all the time; nothing was done.
            DeadlineError: it is not done yet; it may still be done.
        """
        try:
            place = await self._lane.place(self._left_s())
        except TimeoutError:
            raise NotBegunError(
                f"the request waited {self._timeout_s:g} s for others: nothing was done; "
                "try again later, or ask more servers"
            ) from None
        self._future = future = self._lane.begin(call, place)
        try:
            async with asyncio.timeout(self._left_s()):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it was just in time, or raised a TimeoutError of its own
            raise DeadlineError(
                f"no answer within {self._timeout_s:g} s: what was asked for may have been done "
                "or still be done; repeat appends with their event ids or expected_length"
            ) from None

    def when_over(self, call: Callable[[], None]) -> None:
        """Call when nothing is done for the request any more, which may be now."""
        if self._future is None:
            call()
        else:
            self._future.add_done_callback(lambda _: call())

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

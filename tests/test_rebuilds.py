import threading

import pytest

from gistrec.errors import BusyError, ConfigError
from gistrec.rebuilds import RebuildLimits, Rebuilds


def rebuilds_of(**limits) -> Rebuilds:
    return Rebuilds(RebuildLimits(**{"long_events": 1, **limits}))


class Crowd:
    """Threads that come one after another and each wait for a turn."""

    def __init__(self, rebuilds: Rebuilds) -> None:
        self.rebuilds = rebuilds
        self.turns, self.refused, self.running, self.most = [], [], 0, 0
        self._waits = threading.Semaphore(0)
        self._threads = []
        rebuilds.on_wait = self._waits.release

    def come(self, name: str, model: int = 0) -> None:
        thread = threading.Thread(target=self._rebuild, args=(name, model))
        self._threads.append(thread)
        thread.start()
        assert self._waits.acquire(timeout=60)

    def _rebuild(self, name: str, model: int) -> None:
        try:
            with self.rebuilds.turn(1, model=model):
                self.running += 1
                self.most = max(self.most, self.running)
                self.turns.append(name)
                self.running -= 1
        except BusyError:
            self.refused.append(name)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_short_ones_never_wait():
    rebuilds = rebuilds_of(at_once=1, waiting=0, long_events=10)
    with rebuilds.turn(10), rebuilds.turn(9), rebuilds.turn(0):
        pass
    assert (rebuilds.started, rebuilds.refused) == (1, 0)


def test_more_than_may_wait_are_refused():
    rebuilds = rebuilds_of(at_once=2, waiting=0)
    with rebuilds.turn(1), rebuilds.turn(1), pytest.raises(BusyError, match="try again") as caught:
        rebuilds.turn(7).__enter__()
    assert caught.value.retry_after_s == rebuilds.limits.wait_s
    assert rebuilds.refused == 1
    with rebuilds.turn(1):
        pass


def test_who_waits_too_long_is_refused_and_leaves_the_queue():
    rebuilds = rebuilds_of(at_once=1, waiting=1, wait_s=0.01)
    told = []
    rebuilds.on_change = lambda running, waiting: told.append((running, waiting))
    with rebuilds.turn(1):
        for _ in range(3):
            with pytest.raises(BusyError):
                rebuilds.turn(1).__enter__()
    assert rebuilds.refused == 3
    with rebuilds.turn(1):
        pass
    assert told == [(1, 0), *[(1, 1), (1, 0)] * 3, (0, 0), (1, 0), (0, 0)]


def test_who_does_not_want_to_wait_is_refused_at_once_and_displaces_nobody():
    rebuilds = rebuilds_of(at_once=1, waiting=1, wait_s=60)
    crowd = Crowd(rebuilds)
    with rebuilds.turn(1, wait=False):
        crowd.come("waits", model=1)
        with pytest.raises(BusyError):
            rebuilds.turn(1, model=0, wait=False).__enter__()
    crowd.join()
    assert (crowd.turns, rebuilds.refused) == (["waits"], 1)


def test_a_failed_rebuild_gives_its_turn_back():
    rebuilds = rebuilds_of(at_once=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), rebuilds.turn(1):
            raise ZeroDivisionError
    assert rebuilds.started == 3


def test_never_more_at_once_and_in_order_of_arrival():
    rebuilds = rebuilds_of(at_once=1, waiting=16, wait_s=60)
    crowd = Crowd(rebuilds)
    with rebuilds.turn(1):
        for name in "abcdefgh":
            crowd.come(name)
    crowd.join()
    assert crowd.turns == list("abcdefgh")
    assert crowd.most == 1
    assert (rebuilds.started, rebuilds.refused) == (9, 0)


def test_the_oldest_model_comes_first_and_the_newest_has_to_go():
    rebuilds = rebuilds_of(at_once=1, waiting=3, wait_s=60)
    crowd = Crowd(rebuilds)
    with rebuilds.turn(1):
        for name, model in (("new 1", 2), ("new 2", 2), ("middle", 1)):
            crowd.come(name, model)
        with pytest.raises(BusyError):  # behind all others
            rebuilds.turn(1, model=2).__enter__()
        crowd.come("old", 0)
    crowd.join()
    assert crowd.turns == ["old", "middle", "new 1"]
    assert crowd.refused == ["new 2"]


@pytest.mark.parametrize(
    "wrong", [{"at_once": 0}, {"waiting": -1}, {"wait_s": float("nan")}, {"long_events": 0}]
)
def test_limits_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} of rebuilds is .*, allowed is"):
        RebuildLimits(**wrong)

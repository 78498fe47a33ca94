import threading

import pytest

from gistrec.errors import BusyError
from gistrec.rebuilds import Rebuilds


def test_short_ones_never_wait():
    rebuilds = Rebuilds(at_once=1, waiting=0, long_events=10)
    with rebuilds.turn(10), rebuilds.turn(9), rebuilds.turn(0):
        pass
    assert (rebuilds.started, rebuilds.refused) == (1, 0)


def test_more_than_may_wait_are_refused():
    rebuilds = Rebuilds(at_once=2, waiting=0, long_events=1)
    with rebuilds.turn(1), rebuilds.turn(1), pytest.raises(BusyError, match="try again") as caught:
        rebuilds.turn(7).__enter__()
    assert caught.value.retry_after_s == rebuilds.wait_s
    assert rebuilds.refused == 1
    with rebuilds.turn(1):
        pass


def test_who_waits_too_long_is_refused_and_leaves_the_queue():
    rebuilds = Rebuilds(at_once=1, waiting=1, wait_s=0.01, long_events=1)
    with rebuilds.turn(1):
        for _ in range(3):
            with pytest.raises(BusyError):
                rebuilds.turn(1).__enter__()
    assert rebuilds.refused == 3
    with rebuilds.turn(1):
        pass


def test_a_failed_rebuild_gives_its_turn_back():
    rebuilds = Rebuilds(at_once=1, waiting=0, long_events=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), rebuilds.turn(1):
            raise ZeroDivisionError
    assert rebuilds.started == 3


def test_never_more_at_once_and_in_order_of_arrival():
    rebuilds = Rebuilds(at_once=1, waiting=16, wait_s=60, long_events=1)
    order, most, running = [], [0], [0]

    def rebuild(n):
        with rebuilds.turn(1):
            running[0] += 1
            most[0] = max(most[0], running[0])
            order.append(n)
            running[0] -= 1

    threads = [threading.Thread(target=rebuild, args=(n,)) for n in range(8)]
    with rebuilds.turn(1):
        for n, thread in enumerate(threads):
            thread.start()
            while len(rebuilds._queue) <= n:
                threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert most == [1]
    assert (rebuilds.started, rebuilds.refused) == (9, 0)

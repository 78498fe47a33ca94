import time
from pathlib import Path

import pytest

from gistrec.errors import ConfigError, StoreUnavailableError
from gistrec.history_log import HistoryLog
from gistrec.stores import StateStore, open_store
from gistrec.testing.stores import StoreTests


class TestSlow(StoreTests):
    def open(self, folder: Path) -> StateStore:
        return open_store(f"slow://?ms=0&store=lmdb://{folder}%3Fsync=off%26map_size=64m")


class TestFlakyThatNeverFails(StoreTests):
    def open(self, folder: Path) -> StateStore:
        return open_store(f"flaky://?rate=0&store=lmdb://{folder}%3Fsync=off%26map_size=64m")


def test_slow_takes_longer():
    with open_store("slow://?ms=30") as store:
        begun = time.monotonic()
        store.put("a", b"1")
        store.get("a")
        assert time.monotonic() - begun >= 0.06


def test_flaky_fails_before_and_after_writing():
    with open_store("flaky://?rate=1") as store:
        for n in range(30):
            with pytest.raises(StoreUnavailableError):
                store.put(f"{n}", b"x")
        assert 5 < len(list(store.keys())) < 25
        with pytest.raises(StoreUnavailableError):
            store.get("0")


@pytest.mark.parametrize("url", ["slow://?ms=x", "flaky://?rate=x", "slow://?x=1", "flaky://?ms=1"])
def test_wrong_options(url):
    with pytest.raises(ConfigError):
        open_store(url)


@pytest.mark.parametrize("how", ["event ids", "expected length"])
def test_repeated_appends_on_a_flaky_store_lose_and_double_nothing(how):
    with open_store("flaky://?rate=0.3&seed=1") as store:
        log, failures = HistoryLog(store), 0
        for n in range(200):
            given = {"event_ids": [f"{n}"]} if how == "event ids" else {"expected_length": n}
            while True:
                try:
                    assert log.append("u", [n], [n], **given) == n + 1
                    break
                except StoreUnavailableError:
                    failures += 1
        assert failures > 50
        store._rate = 0
        assert log.read("u").item_id.tolist() == list(range(200))

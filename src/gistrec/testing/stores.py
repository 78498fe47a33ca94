"""The laws of stores. A new engine's test is a subclass that says how to open it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gistrec.errors import ConflictError, DataError
from gistrec.stores import MAX_KEY_BYTES, Entry, Put, StateStore


class StoreTests:
    """What every `StateStore` must do.

    Example:
        class TestMyEngine(StoreTests):
            def open(self, folder):
                return open_store(f"myengine://{folder}")
    """

    def open(self, folder: Path) -> StateStore:
        """Open a store whose content belongs to the folder, made empty by the test."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[StateStore]:
        with self.open(tmp_path) as store:
            yield store

    def test_reads_its_write(self, store: StateStore) -> None:
        version = store.put("a", b"first")
        assert store.get("a") == Entry(b"first", version)
        newer = store.put("a", b"second")
        assert store.get("a") == Entry(b"second", newer)
        assert newer > version > 0

    def test_missing_is_none(self, store: StateStore) -> None:
        store.put("ab", b"x")
        assert store.get("a") is None
        assert store.get_many(["abc", "ab", "b"])[::2] == [None, None]

    def test_get_many_keeps_order_and_repeats(self, store: StateStore) -> None:
        store.put_many([Put("a", b"1"), Put("b", b"2")])
        found = store.get_many(["b", "a", "b"])
        assert [entry and entry.blob for entry in found] == [b"2", b"1", b"2"]
        assert store.get_many([]) == []

    @pytest.mark.parametrize("blob", [b"", bytes(range(256)), b"\0" * 5000, bytes(70_000)])
    def test_any_bytes(self, store: StateStore, blob: bytes) -> None:
        version = store.put("a", blob)
        assert store.get("a") == Entry(blob, version)

    @pytest.mark.parametrize("key", ["a/b c%?#", "\0", "ключ 鍵 🗝", "x" * MAX_KEY_BYTES])
    def test_any_text_is_a_key(self, store: StateStore, key: str) -> None:
        store.put(key, b"1")
        assert store.get(key) is not None
        assert list(store.keys()) == list(store.keys(key)) == [key]

    @pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_BYTES + 1), "\udc00"])
    def test_refuses_other_keys(self, store: StateStore, key: str) -> None:
        with pytest.raises(DataError, match="key"):
            store.put(key, b"1")
        with pytest.raises(DataError, match="key"):
            store.get(key)
        assert list(store.keys()) == []

    def test_conflict_changes_nothing(self, store: StateStore) -> None:
        old = store.put("a", b"old")
        new = store.put("a", b"new", if_version=old)
        for expected in (old, 0, new + 1):
            with pytest.raises(ConflictError, match=str(expected)):
                store.put("a", b"lost", if_version=expected)
        assert store.get("a") == Entry(b"new", new)

    def test_version_0_means_none(self, store: StateStore) -> None:
        with pytest.raises(ConflictError):
            store.put("a", b"x", if_version=1)
        assert store.get("a") is None
        store.put("a", b"x", if_version=0)
        assert store.get("a") is not None

    def test_a_group_is_written_whole_or_not_at_all(self, store: StateStore) -> None:
        keys = a, b, c = "h/ann/1", "s/ann/1", "b/ann/1/0"
        version = store.put(b, b"old")
        for bad in (Put(b, b"new", version + 1), Put(b, None, 0)):
            with pytest.raises(ConflictError):
                store.put_many([Put(a, b"new"), bad, Put(c, b"new")])
            assert store.get_many(keys) == [None, Entry(b"old", version), None]
        versions = store.put_many([Put(a, b"1", 0), Put(b, None, version), Put(c, b"3")])
        found = store.get_many(keys)
        assert found == [Entry(b"1", versions[0]), None, Entry(b"3", versions[2])]
        assert versions[1] == 0

    def test_several_groups_at_once(self, store: StateStore) -> None:
        puts = [Put(f"{kind}/{n}", b"%d" % n) for n in range(50) for kind in "hs"]
        versions = store.put_many(puts)
        entries = [Entry(p.blob or b"", v) for p, v in zip(puts, versions, strict=True)]
        assert store.get_many([p.key for p in puts]) == entries
        wrong = versions[14] + 1
        with pytest.raises(ConflictError, match="'h/7' is at version"):
            store.put_many([Put("h/7", b"lost", wrong), Put("s/7", b"lost"), Put("s/8", b"new")])
        assert store.get_many(["h/7", "s/7"]) == entries[14:16]  # user 8's is another group

    def test_versions_are_not_used_again(self, store: StateStore) -> None:
        old = store.put("a", b"1")
        store.delete("a")
        new = store.put("a", b"1")
        assert new > old
        with pytest.raises(ConflictError):
            store.put("a", b"lost", if_version=old)

    def test_delete_twice(self, store: StateStore) -> None:
        store.put("a", b"1")
        assert store.delete("a") is True
        assert store.delete("a") is False
        assert store.get("a") is None
        assert list(store.keys()) == []

    def test_versions_tell_when_an_entry_was_written(self, store: StateStore) -> None:
        before = time.time()
        times = [store.written_at(store.put("a", b"%d" % n)) for n in range(3)]
        assert int(before) <= times[0] <= times[1] <= times[2] <= time.time() + 1

    def test_sizes_without_blobs(self, store: StateStore) -> None:
        versions = store.put_many([Put("s/a", b"12345"), Put("s/b", b"")])
        assert store.sizes(["s/a", "s/b", "s/c"]) == [(5, versions[0]), (0, versions[1]), None]
        assert store.sizes([]) == []

    def test_what_may_go_is_there_until_then(self, store: StateStore) -> None:
        version = store.put_many([Put("s/a", b"1", ttl_s=60), Put("h/a", b"2")])[0]
        assert store.get("s/a") == Entry(b"1", version)
        with pytest.raises(ConflictError):
            store.put_many([Put("s/a", b"3", 0, ttl_s=60)])
        assert store.put("s/a", b"4", if_version=version) > version

    def test_keys_with_a_prefix_in_byte_order(self, store: StateStore) -> None:
        names = ["a", "a/", "a/1", "a/10", "a/2", "a/é", "a/\U0001f5dd", "b", "\uffff"]
        store.put_many([Put(name, b"x") for name in reversed(names)])
        assert list(store.keys()) == sorted(names, key=str.encode)
        assert list(store.keys("a/")) == sorted(names[1:7], key=str.encode)
        assert list(store.keys("a/1")) == ["a/1", "a/10"]
        assert list(store.keys("c")) == []

    def test_many_keys(self, store: StateStore) -> None:
        names = [f"{n:05d}" for n in range(3000)]
        store.put_many([Put(name, name.encode()) for name in names])
        scan = store.keys()
        assert [next(scan) for _ in range(2)] == names[:2]
        store.delete(names[-1])  # a scan under way does not block writers
        assert list(store.keys()) == names[:-1]

    def test_threads_lose_no_update(self, store: StateStore) -> None:
        rounds, workers = 25, 8

        def work() -> None:
            for _ in range(rounds):
                while True:
                    entry = store.get("n")
                    count, version = (int(entry.blob), entry.version) if entry else (0, 0)
                    try:
                        store.put("n", b"%d" % (count + 1), if_version=version)
                    except ConflictError:
                        continue
                    break

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entry = store.get("n")
        assert entry is not None
        assert int(entry.blob) == rounds * workers

    def test_get_many_sees_one_moment(self, store: StateStore) -> None:
        store.put_many([Put("h/u", b"0"), Put("s/u", b"0")])
        done = threading.Event()

        def write() -> None:
            for n in range(300):
                store.put_many([Put("h/u", b"%d" % n), Put("s/u", b"%d" % n)])
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            a, b = store.get_many(["h/u", "s/u"])
            assert a is not None
            assert b is not None
            assert a.blob == b.blob
        thread.join()

    def test_reopening(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as store:
            version = store.put("a", b"1")
        store.close()  # twice is harmless
        with self.open(tmp_path) as store:
            assert store.get("a") == Entry(b"1", version)
            assert store.put("a", b"2") > version

    def test_two_openers_see_each_other(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as one, self.open(tmp_path) as other:
            one.put("a", b"1")
            assert other.get("a") == one.get("a")
            other.close()
            assert one.get("a") is not None

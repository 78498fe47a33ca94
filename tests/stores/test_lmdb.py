import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gistrec.errors import ConfigError, ConflictError, StoreError, StoreUnavailableError
from gistrec.stores import Put, StateStore, open_store
from gistrec.testing.stores import StoreTests


def url(folder: Path, **options: str) -> str:
    options = {"map_size": "64m", "sync": "off"} | options
    return f"lmdb://{folder}?" + "&".join(f"{k}={v}" for k, v in options.items())


class TestLmdb(StoreTests):
    def open(self, folder: Path) -> StateStore:
        return open_store(url(folder / "made" / "on demand"))


@pytest.mark.parametrize("sync", ["on", "full"])
def test_flushed_writes(tmp_path, sync):
    with open_store(url(tmp_path, sync=sync)) as store:
        store.put("a", b"1")
    with open_store(url(tmp_path, sync=sync)) as store:
        assert store.get("a").blob == b"1"


def test_defaults(tmp_path):
    with open_store(f"lmdb://{tmp_path}/x") as store:
        store.put("a", b"1")
        assert (tmp_path / "x" / "data.mdb").stat().st_blocks * 512 < 1_000_000  # sparse


@pytest.mark.parametrize("options", ["sync=yes", "map_size=8q", "map_size=0", "map_size=g", "x=1"])
def test_wrong_options(tmp_path, options):
    with pytest.raises(ConfigError, match=options.split("=")[0]):
        open_store(f"lmdb://{tmp_path}?{options}")


def test_no_folder():
    with pytest.raises(ConfigError, match="folder"):
        open_store("lmdb://")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="file"):
        open_store(url(tmp_path / "file"))


def test_other_bytes_are_not_a_store(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(StoreUnavailableError, match="can't open"):
        open_store(url(tmp_path))


def test_second_opener_must_agree(tmp_path):
    with open_store(url(tmp_path)), pytest.raises(ConfigError, match="sync=off"):
        open_store(url(tmp_path, sync="on"))
    open_store(url(tmp_path, sync="on")).close()


def test_closed_store_says_so(tmp_path):
    store = open_store(url(tmp_path))
    store.close()
    with pytest.raises(StoreError, match="open it again"):
        store.get("a")


def test_full_store_says_what_to_do_and_keeps_the_old(tmp_path):
    with open_store(url(tmp_path, map_size="1m")) as store:
        store.put("a", b"old")
        with pytest.raises(StoreError, match=r"\?map_size=2097152"):
            store.put_many([Put("a", b"new"), Put("b", bytes(2_000_000))])
        assert store.get("a").blob == b"old"
    with open_store(url(tmp_path, map_size="8m")) as store:
        store.put("b", bytes(2_000_000))


def test_versions_grow_in_a_compacted_copy(tmp_path, monkeypatch):
    """Transactions are counted anew in it, and the clock may have been set back."""
    with open_store(url(tmp_path / "old")) as store:
        versions = [store.put("a", b"%d" % n) for n in range(20)]
        (tmp_path / "new").mkdir()
        store._shared.env.copy(str(tmp_path / "new"), compact=True)
    monkeypatch.setattr("time.time", lambda: 1_600_000_000)
    with open_store(url(tmp_path / "new")) as store:
        assert store.get("a").version == versions[-1]
        assert store.put("b", b"1") < versions[-1]  # or the test shows nothing
        assert store.put("a", b"20") > versions[-1]


def test_what_has_no_date_never_counts_as_old(tmp_path):
    """An earlier gistrec noted the transaction's number only."""
    with open_store(url(tmp_path)) as store:
        with store._shared.env.begin(write=True) as txn:
            txn.put(b"h/u", (77).to_bytes(8, "little") + b"old")
        entry = store.get("h/u")
        assert entry == (b"old", 77)
        assert store.written_at(entry.version) > time.time() - 60
        assert store.put("h/u", b"new", if_version=77) > 2**60


def test_other_errors_of_the_engine_are_store_errors(tmp_path):
    store = open_store(url(tmp_path))
    store._shared.env.close()
    with pytest.raises(StoreError, match="nothing was written"):
        store.put("a", b"1")
    store.close()


def waiting(store, writes):
    """Run writes in threads that all wait, behind a first one, for somebody else's transaction."""
    results = {}

    def run(name, puts):
        try:
            results[name] = store.put_many(puts)
        except StoreError as error:
            results[name] = error

    with store._shared.env.begin(write=True):
        threads = []
        for n, (name, puts) in enumerate({"first": [Put("first", b"")], **writes}.items()):
            threads.append(threading.Thread(target=run, args=(name, puts)))
            threads[-1].start()
            while len(store._shared.waiting) != n or not store._shared.committing:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    return results


def test_writes_that_wait_share_a_transaction(tmp_path):
    with open_store(url(tmp_path)) as store:
        results = waiting(store, {n: [Put(f"h/{n}", b"x"), Put(f"s/{n}", b"x")] for n in range(7)})
        first = results.pop("first")[0]
        assert list(results.values()) == [[first + 1] * 2] * 7
        assert store.get("s/6") == (b"x", first + 1)


def test_who_shares_a_transaction_shares_no_fault(tmp_path):
    with open_store(url(tmp_path, map_size="1m")) as store:
        version = store.put("a", b"old")
        results = waiting(
            store,
            {
                "good": [Put("b", b"1", 0)],
                "conflict": [Put("c", b"1"), Put("a", b"1", version + 1)],
                "too large": [Put("d", bytes(2_000_000))],
                "good, too": [Put("a", b"new", version), Put("e", None)],
            },
        )
        assert isinstance(results["conflict"], ConflictError)
        assert "is full" in str(results["too large"])
        found = store.get_many(["a", "b", "c", "d"])
        assert [entry and entry.blob for entry in found] == [b"new", b"1", None, None]
        assert results["good"] == [found[1].version]
        assert results["good, too"] == [found[0].version, 0]


def test_writes_of_one_key_that_wait_keep_their_order_and_versions(tmp_path):
    with open_store(url(tmp_path)) as store:
        writes = {
            "put": [Put("a", b"1")],
            "removed": [Put("a", None)],
            "put again": [Put("a", b"2", 0)],
            "overtaken": [Put("a", b"lost", 0)],
        }
        results = waiting(store, writes)
        assert results["put again"] > results["put"]
        assert isinstance(results["overtaken"], ConflictError)
        assert store.get("a") == (b"2", results["put again"][0])


def test_an_interrupt_leaves_nobody_waiting(tmp_path, monkeypatch):
    def interrupted(self, writes):
        raise KeyboardInterrupt

    with open_store(url(tmp_path)) as store:
        monkeypatch.setattr(type(store), "_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put("a", b"1")
        monkeypatch.undo()
        assert store.put("a", b"1")


WRITER = """
import sys
from gistrec.stores import Put, open_store
store = open_store(sys.argv[1])
n = 0
while True:
    size = 1 + n * 37 % 9000
    store.put_many([Put(f"{n % 200}/{part}", b"%d:" % n * size) for part in "ab"])
    print(n, flush=True)
    n += 1
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path):
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, url(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            acknowledged = [int(writer.stdout.readline()) for _ in range(300)]
            writer.kill()
            acknowledged += map(int, writer.stdout.read().splitlines())
        last = {n % 200: n for n in acknowledged}
        with open_store(url(tmp_path)) as store:
            for slot, n in last.items():
                a, b = store.get_many([f"{slot}/a", f"{slot}/b"])
                found = int(a.blob.split(b":")[0])
                # at most one write after the last acknowledged one
                assert found in (n, acknowledged[-1] + 1)
                assert a.blob == b.blob == b"%d:" % found * (1 + found * 37 % 9000)


COUNTER = """
import sys
from gistrec.errors import ConflictError
from gistrec.stores import open_store
with open_store(sys.argv[1]) as store:
    for _ in range(200):
        while True:
            entry = store.get("n")
            try:
                store.put("n", b"%d" % (int(entry.blob) + 1), if_version=entry.version)
                break
            except ConflictError:
                pass
"""


def test_processes_lose_no_update(tmp_path):
    with open_store(url(tmp_path)) as store:
        store.put("n", b"0")
        command = [sys.executable, "-c", COUNTER, url(tmp_path)]
        workers = [subprocess.Popen(command) for _ in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        assert store.get("n").blob == b"600"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_opens_anew(tmp_path):
    program = f"""
import os
from gistrec.errors import StoreError
from gistrec.stores import open_store
store = open_store({url(tmp_path)!r})
store.put("a", b"1")
child = os.fork()
if not child:
    try:
        store.get("a")
    except StoreError:
        store.close()
        with open_store({url(tmp_path)!r}) as own:
            own.put("b", own.get("a").blob)
            os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert store.get("b").blob == b"1"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


CUT_SHORT = """
import os, resource, signal, sys
from gistrec.errors import StoreUnavailableError
from gistrec.stores import open_store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_store(sys.argv[1]) as store:
    size = os.path.getsize(sys.argv[2])
    told = set()
    for more in range(1000, 80_000, 1300):  # in the middle of a page, and at its end
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, resource.RLIM_INFINITY))
        try:
            store.put("new", bytes(100_000))
        except StoreUnavailableError as error:
            told.add(str(error))
        else:
            raise AssertionError("it fits")
        assert store.get("old").blob == b"here"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    store.put("new", bytes(100_000))
    assert told
    assert all("nothing was written" in text for text in told), told
"""


def test_a_write_that_is_cut_short_is_told_and_may_be_repeated(tmp_path):
    """As by a disk that gets full in the middle of it."""
    url = f"lmdb://{tmp_path}?map_size=64m"
    with open_store(url) as store:
        store.put("old", b"here")
    subprocess.run([sys.executable, "-c", CUT_SHORT, url, str(tmp_path / "data.mdb")], check=True)

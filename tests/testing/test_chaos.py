import os
import subprocess

import pytest

from gistrec.errors import StoreUnavailableError
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.chaos import torment
from gistrec.testing.data import stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(folder)
    return folder


def check(outcome, appends):
    assert (outcome.acknowledged, outcome.kills) == (appends, 2)
    assert (outcome.lost, outcome.doubled, outcome.disordered) == (0, 0, 0)


def test_gistrec_killed_on_lmdb(model, tmp_path):
    """With the store's default options."""
    check(torment(model, f"lmdb://{tmp_path}", kills=2, appends=240), 240)


def test_a_redis_primary_killed(model, tmp_path):
    with valkey_server(tmp_path, "--appendfsync", "always") as valkey:
        check(torment(model, valkey.url, kills=2, appends=400, victim=valkey), 400)


def test_lost_and_doubled_events_are_seen(model, tmp_path):
    """Without this, the zeros above would mean nothing: this server forgets when it is killed."""
    with valkey_server(tmp_path, "--appendonly", "no") as valkey:
        outcome = torment(model, valkey.url, kills=2, appends=400, victim=valkey)
    assert outcome.lost > 0


@pytest.fixture
def small_disk(tmp_path):
    """4 MiB of memory as a disk."""
    if os.geteuid():
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def append(log, acknowledged):
    """One more event, whose item is its place."""
    n = len(acknowledged)
    assert log.append("u", [n], [0], event_ids=[f"{n}"]) == n + 1
    acknowledged.append(n)


def append_until_full(store, acknowledged):
    """Beside larger entries, so that it takes a moment."""
    for n in range(20_000):
        store.put(f"other/{n}", bytes(1000))
        append(HistoryLog(store), acknowledged)


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(small_disk):
    stuffing = small_disk / "stuffing"
    stuffing.write_bytes(bytes(3_500_000))
    acknowledged: list[int] = []
    url = f"lmdb://{small_disk / 'store'}?map_size=64m"
    with open_store(url) as store:
        with pytest.raises(StoreUnavailableError, match="No space left"):
            append_until_full(store, acknowledged)
        assert len(acknowledged) > 10
        assert HistoryLog(store).read("u").item_id.tolist() == acknowledged
        stuffing.unlink()
        append(HistoryLog(store), acknowledged)
    with open_store(url) as store:
        assert HistoryLog(store).read("u").item_id.tolist() == acknowledged


def test_a_redis_server_with_a_full_disk_refuses_and_loses_nothing(small_disk):
    stuffing = small_disk / "stuffing"
    stuffing.write_bytes(bytes(3_000_000))
    acknowledged: list[int] = []
    with valkey_server(small_disk / "v", "--appendfsync", "everysec") as valkey:
        store = open_store(f"{valkey.url}?timeout_s=0.3")
        with store, pytest.raises(StoreUnavailableError, match="MISCONF"):
            append_until_full(store, acknowledged)
        assert len(acknowledged) > 10
        stuffing.unlink()
        with open_store(f"{valkey.url}?timeout_s=20") as patient:
            append(HistoryLog(patient), acknowledged)
        valkey.kill()
        valkey.start()
        with open_store(valkey.url) as store:
            assert HistoryLog(store).read("u").item_id.tolist() == acknowledged

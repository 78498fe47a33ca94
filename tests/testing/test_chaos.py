from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gistrec.errors import ConfigError, StoreUnavailableError
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.chaos import Case, torment
from gistrec.testing.data import stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.testing.troubles import CASES, fill, killing, small_disk
from gistrec.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_no_acknowledged_event_is_lost_or_doubled(model, tmp_path, name):
    with ExitStack() as stack:
        try:
            case = stack.enter_context(CASES[name](tmp_path / "store"))
        except ConfigError as error:
            pytest.skip(str(error))
        outcome = torment(model, case, kills=3, appends=400)
    assert (outcome.acknowledged, outcome.kills) == (400, 3)
    assert (outcome.doubled, outcome.disordered) == (0, 0)
    assert outcome.lost == 0 or not case.keeps_all
    # what is refused is refused with a name
    named = ("503 NotReadyError", "503 StoreUnavailableError", "409 ConflictError")
    assert set(outcome.refusals) <= {"no answer", *named}


def test_lost_and_doubled_events_are_seen(model, tmp_path):
    """Without this, the zeros above would mean nothing: this server forgets when it is killed."""
    with valkey_server(tmp_path, "--appendonly", "no") as valkey:
        outcome = torment(model, Case(valkey.url, killing(valkey)), kills=2, appends=400)
    assert outcome.lost > 0


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """4 MiB of memory as a disk."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(small_disk(tmp_path / "disk", size="4m"))
        except ConfigError as error:
            pytest.skip(str(error))


def test_a_disk_is_filled_to_the_last_byte(disk):
    stuffing = fill(disk)
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").write_bytes(bytes(5000))
    assert stuffing.stat().st_size > 4_000_000


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


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(disk):
    stuffing = disk / "stuffing"
    stuffing.write_bytes(bytes(3_500_000))
    acknowledged: list[int] = []
    url = f"lmdb://{disk / 'store'}?map_size=64m"
    with open_store(url) as store:
        with pytest.raises(StoreUnavailableError, match="No space left"):
            append_until_full(store, acknowledged)
        assert len(acknowledged) > 10
        assert HistoryLog(store).read("u").item_id.tolist() == acknowledged
        stuffing.unlink()
        append(HistoryLog(store), acknowledged)
    with open_store(url) as store:
        assert HistoryLog(store).read("u").item_id.tolist() == acknowledged


def test_a_redis_server_with_a_full_disk_refuses_and_loses_nothing(disk):
    stuffing = disk / "stuffing"
    stuffing.write_bytes(bytes(3_000_000))
    acknowledged: list[int] = []
    with valkey_server(disk / "v", "--appendfsync", "everysec") as valkey:
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

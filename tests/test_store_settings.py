import threading

import msgspec
import pytest

from gistrec.store_settings import KEY, Settings, StoreSettings, Version
from gistrec.stores import open_store


@pytest.fixture
def store():
    return open_store("ram://")


def serve(name):
    return lambda old: msgspec.structs.replace(old, serving=name)


def test_none_yet(store):
    assert StoreSettings(store).read() == Settings()
    assert list(store.keys()) == []


def test_changes_are_seen_by_others(store, monkeypatch):
    one, other = StoreSettings(store), StoreSettings(store)
    assert other.recent().serving == ""
    assert one.change(serve("a")).serving == "a"
    assert one.recent().serving == one.read().serving == "a"
    assert other.recent().serving == ""  # within a second
    monkeypatch.setattr("gistrec.store_settings._FRESH_S", 0.0)
    other._until = 0.0
    assert other.recent().serving == "a"


def test_a_version_is_registered_once(store):
    settings, version = StoreSettings(store), Version("model", "int8()")
    settings.register("00000001", version)
    written = store.get(KEY)
    settings.register("00000001", version)
    assert store.get(KEY) == written
    settings.register("00000002", Version("other"))
    assert settings.read().versions == {"00000001": version, "00000002": Version("other")}


def test_changes_at_the_same_time_are_all_kept(store):
    def register(n):
        StoreSettings(store).register(f"{n:08x}", Version(str(n)))

    threads = [threading.Thread(target=register, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(StoreSettings(store).read().versions) == 20


@pytest.mark.parametrize("damage", [b"", b"rubbish", "cut", "flipped"])
def test_damaged_settings_know_the_versions_that_have_states(store, damage, caplog):
    settings = StoreSettings(store)
    settings.register("00000001", Version("model"))
    settings.change(serve("00000001"))
    store.put("s00000001/u", b"")
    store.put("q00000002/u", b"")
    store.put("s/u", b"")
    blob = store.get(KEY).blob
    if damage == "cut":
        damage = blob[:-1]
    elif damage == "flipped":
        damage = blob[:9] + bytes([blob[9] ^ 1]) + blob[10:]
    store.put(KEY, damage)
    assert settings.read().versions == {"00000001": Version(), "00000002": Version()}
    assert "gistrec state switch" in caplog.text
    settings.register("00000001", Version("model"))
    assert settings.read().versions["00000001"] == Version("model")


def test_reads_are_dated_only_where_something_depends_on_it():
    assert Settings().touch_s == float("inf")
    assert Settings(state_ttl_s=40.0).touch_s == 10.0
    assert Settings(state_budget_bytes=1).touch_s == 3600.0
    assert Settings(state_budget_bytes=1, state_ttl_s=40.0).touch_s == 10.0


def test_settings_of_a_newer_gistrec_are_understood_as_far_as_known(store):
    settings = StoreSettings(store)
    settings.change(serve("00000001"))
    from gistrec.wire import frame

    store.put(KEY, frame(b'{"serving":"00000001","new":[1]}'))
    assert settings.read().serving == "00000001"

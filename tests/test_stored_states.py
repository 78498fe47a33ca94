import pytest

from gistrec.stored_states import (
    UNVERSIONED,
    StoredState,
    block_key,
    remove,
    state_key,
    states_of,
    versions_in,
)
from gistrec.stores import open_store

A, B = "0000000a", "0000000b"


@pytest.fixture
def store():
    with open_store("ram://") as opened:
        opened.put("v/settings", b"")
        opened.put("h/u", b"log")
        yield opened


def every(store, version=None):
    return [state for states in states_of(store, version) for state in states]


def test_keys_fit_into_every_store_and_keep_a_user_together():
    from gistrec.stores import MAX_KEY_BYTES, group_of
    from gistrec.wire import MAX_USER_BYTES

    user = "u/1" + "x" * (MAX_USER_BYTES - 3)
    for key in (state_key, block_key):
        assert len(key(A, user).encode()) <= MAX_KEY_BYTES
        assert group_of(key(A, user)) == group_of(key(UNVERSIONED, user)) == user
    assert state_key(UNVERSIONED, "u") == "s/u"


def test_versions_and_states(store):
    for n in range(600):
        store.put(state_key(A, f"u{n:03}/\n"), bytes(n))
    version = store.put(state_key(B, "u"), b"12")
    store.put(block_key(B, "u"), b"3456")
    store.put(block_key(B, "left"), b"1")
    store.put("s/old", b"1")
    assert versions_in(store) == [A, B, UNVERSIONED]
    assert every(store, B) == [StoredState("left", B, 1, 0), StoredState("u", B, 6, version)]
    found = every(store, A)
    assert [state.nbytes for state in found] == list(range(600))
    assert [state.user_id for state in found] == [f"u{n:03}/\n" for n in range(600)]
    assert every(store, "0000000c") == []
    of_all = every(store, UNVERSIONED) + found + every(store, B)
    assert every(store) == of_all
    assert len(of_all) == 603


def test_removed_as_they_were_found(store):
    for user in "abcd":
        store.put(state_key(A, user), b"1")
        store.put(block_key(A, user), b"2")
    found = every(store, A)
    store.put(state_key(A, "b"), b"written since")
    store.delete(state_key(A, "c"))
    store.delete(block_key(A, "c"))
    assert [state.user_id for state in remove(store, found)] == ["a", "c", "d"]
    assert [state.user_id for state in every(store, A)] == ["b"]
    assert remove(store, every(store, A)) != []
    assert sorted(store.keys()) == ["h/u", "v/settings"]

import pytest

from gistrec.errors import CorruptStateError, DataError, FormatVersionError
from gistrec.event_ids import KEPT, EventIds, hash_of


def test_news_are_what_was_not_there():
    a, b = hash_of("a"), hash_of("b")
    ids = EventIds().with_new([a, None])
    assert ids.news([None, a, b, b, None]) == [0, 2, 4]
    assert ids.with_new([b]).hashes == (a, b)


def test_the_oldest_go_first():
    hashes = [hash_of(str(n)) for n in range(KEPT + 3)]
    assert EventIds().with_new(hashes).hashes == tuple(hashes[3:])


def test_bytes_round_trip_and_tell_damage():
    ids = EventIds().with_new([hash_of("a"), hash_of("b")])
    blob = ids.to_bytes()
    assert len(blob) == 2 * 8 + 5
    assert EventIds.from_bytes(blob, "ids", "remedy") == ids
    assert EventIds.from_bytes(EventIds().to_bytes(), "ids", "remedy") == EventIds()
    for place in range(len(blob)):
        damaged = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises((CorruptStateError, FormatVersionError), match="ids"):
            EventIds.from_bytes(damaged, "ids", "remedy")


def test_hashes_are_of_the_text():
    assert hash_of("é").hex() == "cb1abf8beff3192f"  # stored, so it must stay
    assert hash_of(None) is None
    assert hash_of("a") != hash_of("b")


@pytest.mark.parametrize("wrong", ["", "x" * 257, 7, "\udc00"])
def test_wrong_ids(wrong):
    with pytest.raises(DataError, match="event id"):
        hash_of(wrong)

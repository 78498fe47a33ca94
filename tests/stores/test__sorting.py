import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gistrec.stores._sorting import distinct


@given(st.lists(st.binary(max_size=4)), st.integers(1, 7))
def test_each_once_in_byte_order(names, at_once):
    assert list(distinct(iter(names), at_once=at_once)) == sorted(set(names))


def test_no_more_than_a_part_is_held_and_files_are_closed(monkeypatch):
    files, taken, most = [], 0, 0
    make = tempfile.TemporaryFile

    def watched():
        files.append(make())
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)

    def names():
        nonlocal taken, most
        for n in range(1000):
            most = max(most, taken - sum(50 for file in files if not file.closed))
            taken += 1
            yield b"%d" % ((n * 7919) % 1000)

    found = distinct(names(), at_once=50)
    first = next(found)
    assert (first, taken, len(files)) == (b"0", 1000, 20)
    assert most <= 2 * 50
    assert not any(file.closed for file in files)
    found.close()
    assert all(file.closed for file in files)


def test_few_names_need_no_file(monkeypatch):
    def refuse():
        raise AssertionError

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert list(distinct([b"b", b"a", b"b"], at_once=3)) == [b"a", b"b"]


def test_a_name_that_is_too_long_is_not_cut():
    with pytest.raises(OverflowError):
        list(distinct([b"a", bytes(1 << 16), b"c"], at_once=1))

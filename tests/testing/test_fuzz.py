import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.errors import GistrecError
from gistrec.testing.fuzz import Parser, fuzz, parsers


@pytest.mark.parametrize("name", parsers())
def test_damaged_input_is_refused_or_read(name):
    found = fuzz(300, seed=5, names=[name])
    assert found.crashes == []
    assert found.refused > 0


@pytest.mark.parametrize("name", parsers())
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_refused_or_read(name, data):
    with contextlib.suppress(GistrecError):
        parsers()[name].parse(data)


def test_a_crash_is_seen(monkeypatch):
    def crash(data: bytes) -> None:
        raise KeyError("x")

    one = {"bad": Parser(crash, [b"abc"])}
    monkeypatch.setattr("gistrec.testing.fuzz.parsers", lambda: one)
    found = fuzz(20)
    assert len(found.crashes) == 10
    assert "bad of b" in found.crashes[0]
    assert "KeyError('x')" in found.crashes[0]

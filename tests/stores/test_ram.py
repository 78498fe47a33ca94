from pathlib import Path

import pytest

from gistrec.errors import ConfigError
from gistrec.stores import StateStore, open_store
from gistrec.testing.stores import StoreTests


class TestRam(StoreTests):
    def open(self, folder: Path) -> StateStore:
        return open_store(f"ram://{folder}")


def test_without_a_name_it_is_private():
    one, other = open_store("ram://"), open_store("ram://")
    one.put("a", b"1")
    assert other.get("a") is None


def test_options_are_refused():
    with pytest.raises(ConfigError, match=r"no options.*sync"):
        open_store("ram://?sync=off")


@pytest.mark.parametrize("url", ["ram", "/some/folder", ""])
def test_not_a_url(url):
    with pytest.raises(ConfigError, match="ram://"):
        open_store(url)


def test_unknown_engine():
    with pytest.raises(ConfigError, match="did you mean 'lmdb'"):
        open_store("lmbd:///x")

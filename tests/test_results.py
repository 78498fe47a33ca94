"""Result files: appended, torn by a killed run, and read again."""

from pathlib import Path

import pytest

from gistrec import results
from gistrec.errors import DataError


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    results.append(path, {"a": 1, "b": [0.5, None], "c": {"d": "ü"}})
    results.append(path, {"a": 2})
    assert results.load(path) == [{"a": 1, "b": [0.5, None], "c": {"d": "ü"}}, {"a": 2}]


def test_numbers_are_rounded_where_they_mean_nothing(tmp_path: Path) -> None:
    results.append(tmp_path / "r.jsonl", {"x": 0.123456789, "y": (1 / 3,), "n": 123456789})
    assert results.load(tmp_path / "r.jsonl") == [{"x": 0.123457, "y": [0.333333], "n": 123456789}]


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_a_torn_last_line_is_passed_over_now_and_later(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    results.append(path, {"a": 1})
    results.append(path, {"b": "lost"})
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [{"a": 1}, {"b": "lost"}] if cut == 1 else [{"a": 1}]  # cut 1 loses the newline alone
    assert results.load(path) == kept
    results.append(path, {"c": 3})
    assert results.load(path) == [*kept, {"c": 3}]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        results.load(tmp_path / "none.jsonl")
    for text in ("[1, 2]\n", "user,item\n", "3\n"):
        (tmp_path / "x").write_text('{"a": 1}\n' + text)
        with pytest.raises(DataError, match="line 2 is not a result row"):
            results.load(tmp_path / "x")


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        results.append(tmp_path / "r.jsonl", {"x": float("nan")})


def test_environment_says_where_and_when() -> None:
    got = results.environment()
    assert set(got) == {"commit", "machine", "versions", "date"}
    assert got["machine"]["cores"] >= 1
    assert {"python", "gistrec", "torch", "numpy"} <= set(got["versions"])
    assert got["commit"] == "unknown" or len(got["commit"].removesuffix("+dirty")) >= 7


def test_code_outside_its_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.commit.cache_clear()
    (tmp_path / "results.py").touch()
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert results.commit() == "unknown"
    results.commit.cache_clear()

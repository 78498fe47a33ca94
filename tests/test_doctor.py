from importlib.metadata import PackageNotFoundError

import pytest

from gistrec import doctor, stores
from gistrec.cli import main


def by_name() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.check()}


def test_a_machine_that_runs_these_tests_is_well():
    checks = by_name()
    assert {c.status for c in checks.values()} == {"ok"}
    assert {"python", "torch", "[serve]", "[demo]", "store", "temporary folder"} <= checks.keys()
    assert "threads" in checks["compute"].detail
    assert "codecs" in checks["methods"].detail


def test_a_broken_store_is_told(monkeypatch, capsys):
    def broken(url: str) -> stores.StateStore:
        raise OSError("no locks here")

    monkeypatch.setattr(stores, "open_store", broken)
    assert by_name()["store"] == doctor.Check("store", "broken", "no locks here")
    assert main(["doctor"]) == 1
    assert "broken  store" in capsys.readouterr().out


def installed(monkeypatch, **versions: str | None) -> None:
    real = doctor.version

    def version(name: str) -> str:
        found = versions.get(name, real(name))
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, "version", version)


def test_a_missing_extra_is_no_failure_but_told_with_its_remedy(monkeypatch, capsys):
    installed(monkeypatch, uvicorn=None)
    serve = by_name()["[serve]"]
    assert serve.status == "missing"
    assert 'pip install "gistrec[serve]"' in serve.detail
    assert main(["doctor", "--json"]) == 0
    assert '"missing"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, 'not installed: pip install "torch'),
        ("2.8.1", "2.8.1 is not >= 2.9"),
        ("2.14.0+cpu", "2.14.0+cpu is not < 2.14"),
    ],
)
def test_a_library_that_is_needed_must_fit(monkeypatch, found, said):
    installed(monkeypatch, torch=found)
    torch = by_name()["torch"]
    assert torch.status == "broken"
    assert said in torch.detail


def test_a_full_disk_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 62)
    temporary = by_name()["temporary folder"]
    assert temporary.status == "broken"
    assert "bytes left" in temporary.detail


def test_an_old_python_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_PYTHON", (4, 0))
    assert "is too old: install 4.0 or newer" in by_name()["python"].detail


def test_a_copy_that_is_not_installed_is_told(monkeypatch):
    def unknown(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", unknown)
    installed(monkeypatch, gistrec=None)
    assert by_name()["gistrec"].status == "broken"

"""Nothing here is pretended where the real thing can be broken: damaged files, locked stores."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from gistrec import doctor, stores
from gistrec.build import fit_recipe
from gistrec.cli import main
from gistrec.errors import StoreError
from gistrec.recommender import Event, Recommender
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, train


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
    assert re.search("broken +store", capsys.readouterr().out)


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


# ---- a store, a model and a log, each really broken ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    model = train(stride_dataset(), "hstu(width=8, num_layers=1)", epochs=1, folder=folder)
    fit_recipe(model, stride_dataset(), "recent(keep=8)").save(folder / "recipe")
    return folder


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.fixture
def store(folder, tmp_path) -> str:
    """With three users who have histories and states."""
    url = f"lmdb://{tmp_path / 'users'}?map_size=16m"
    with Recommender.load(folder, store=url) as recommender:
        items = recommender.items.ids.tolist()
        for user in ("ann", "bob", "eve"):
            recommender.observe(user, [Event(items[n % 5], 100 + n) for n in range(12)])
    return url


def told(checks: list[doctor.Check]) -> dict[str, tuple[str, str]]:
    return {c.name: (c.status, c.detail) for c in checks}


def test_what_is_well_is_told(folder, store, tmp_path):
    checks, version = doctor.check_model(folder)
    assert {c.status for c in checks} == {"ok"}
    found = told(doctor.check_store(store, version))
    room = found.pop("store has room")  # 16 MB are little
    assert room[0] == "warning"
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["histories"][1] == "3 users with 36 events read"
    assert found["states"][1].startswith("3 good, of version ")
    with open_store(store) as opened:
        assert opened.get("doctor") is None
    rows = "".join(f"{user},{n % 9},{10**9 + n * 500}\n" for user in "ab" for n in range(20))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    assert {c.status for c in doctor.check_log(str(tmp_path / "log.csv"))} == {"ok"}


def damage(url: str, change: Callable[[str, bytes], bytes]) -> None:
    """Every entry of a store, changed."""
    with open_store(url) as opened:
        for key in list(opened.keys()):
            blob = opened.get(key).blob
            if (changed := change(key, blob)) != blob:
                opened.put(key, changed)


def test_damaged_states_are_told(folder, store):
    damage(store, lambda key, blob: blob[:-1] + b"\0" if re.match("s[0-9a-f]*/", key) else blob)
    states = told(doctor.check_store(store, doctor.check_model(folder)[1]))["states"]
    assert states[0] == "warning"
    assert states[1].startswith("3 damaged: these are rebuilt on next use")


def test_damaged_histories_are_told(store):
    damage(store, lambda key, blob: b"nonsense" if key == "h/bob" else blob)
    histories = told(doctor.check_store(store))["histories"]
    assert histories[0] == "broken"
    assert "1 of 3 cannot be read, such as that of 'bob': bring the store back" in histories[1]


def test_a_model_without_states_and_a_switch_to_one_are_told(folder, store, copied):
    model = Model.load(copied)
    fit_recipe(model, stride_dataset(), "recent(keep=6)").save(copied / "recipe")
    found = told(doctor.check_store(store, doctor.check_model(copied)[1]))
    assert found["states"][0] == "warning"
    assert "3 missing: build those of version" in found["states"][1]
    assert main(["state", "switch", "--model", str(copied), "--store", store]) == 0
    versions = told(doctor.check_store(store))["versions"]
    assert versions[0] == "warning"
    assert "is to serve and has no states" in versions[1]


def test_a_store_without_users_is_told(tmp_path):
    found = told(doctor.check_store(f"lmdb://{tmp_path / 'empty'}"))
    assert found["histories"] == ("warning", found["histories"][1])
    assert "is this the right store?" in found["histories"][1]


def test_a_store_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (check,) = doctor.check_store(f"lmdb://{tmp_path / 'file'}")
    assert check.status == "broken"
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "data.mdb").write_bytes(b"nonsense" * 1000)
    (check,) = doctor.check_store(f"lmdb://{tmp_path / 'users'}")
    assert (check.name, check.status) == ("store opens", "broken")
    (check,) = doctor.check_store("redis://127.0.0.1:9")
    assert check.status == "broken"


def test_a_locked_store_is_told(store, tmp_path, monkeypatch):
    code = (
        f"import lmdb; e = lmdb.open({str(tmp_path / 'users')!r}, map_size=1 << 24)\n"
        "with e.begin(write=True): print('locked', flush=True); input()"
    )
    monkeypatch.setattr("gistrec.doctor._store.LONGEST_WAIT_S", 0.2)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout.readline() == b"locked\n"
        writes = told(doctor.check_store(store))["store writes"]
        holder.communicate(b"\n")
    assert writes[0] == "broken"
    assert "another process holds the store's lock" in writes[1]


def test_a_full_store_is_told(tmp_path):
    url = f"lmdb://{tmp_path / 'users'}?map_size=64k"
    with open_store(url) as opened, contextlib.suppress(StoreError):
        for number in range(100):
            opened.put(str(number), bytes(4000))
    found = told(doctor.check_store(url))
    assert found["store writes"][0] == "broken" or found["store has room"][0] == "warning"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("model.json", lambda b: b.replace(b'"format": 1', b'"format": 9'), "a model of format 9"),
        ("model.json", lambda b: b.replace(b"width=8", b"width=16"), "the weights are not those"),
        ("model.json", lambda b: b.replace(b"hstu(", b"hsut("), "did you mean 'hstu'"),
        ("model.json", lambda b: b[:-20], "is damaged"),
        ("items.json", lambda b: b[:-20], "is damaged"),
        ("weights.safetensors", lambda b: b[:-1] + b"x", "the weights are not those that model"),
        ("weights.safetensors", lambda b: b[:-9], "is damaged"),
        ("recipe/recipe.json", lambda b: b.replace(b'"version": 1', b'"version": 7'), "version 7"),
    ],
)
def test_a_damaged_model_is_told(copied, file, change, said):
    before = (copied / file).read_bytes()
    (copied / file).write_bytes(change(before))
    assert (copied / file).read_bytes() != before
    checks, version = doctor.check_model(copied)
    assert version is None
    assert checks[-1].status == "broken"
    assert said in checks[-1].detail


def test_an_unfinished_or_missing_or_bare_model_is_told(copied, tmp_path):
    shutil.rmtree(copied / "recipe")
    checks, version = doctor.check_model(copied)
    assert told(checks)["recipe"][0] == "warning"
    assert version is not None
    (copied / "model.json").rename(copied / "checkpoint.safetensors")
    assert "training is not finished" in doctor.check_model(copied)[0][0].detail
    assert "not a finished model folder" in doctor.check_model(tmp_path)[0][0].detail


def test_a_recipe_of_another_model_is_told(folder, copied):
    other = train(stride_dataset(), "hstu(width=8, num_layers=1)", epochs=1, seed=1)
    other.save(copied)
    checks, version = doctor.check_model(copied)
    assert version is None
    assert "fit it again with `gistrec state fit`" in told(checks)["recipe"][1]


NOW = 1_700_000_000
ROWS = {
    "order of rows": ("warning", [(1, n, NOW - n) for n in range(9)], "8 rows are earlier than"),
    "duplicates": ("warning", [(1, 5, NOW + n // 2) for n in range(8)], "4 events are there twice"),
    "histories of the log": ("broken", [(u, 5, NOW + u) for u in range(9)], "none has 5 events"),
    "times": ("warning", [(1, n, NOW * 2 + n) for n in range(9)], "9 in the future"),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_odd_in_a_log_is_told(tmp_path, name):
    status, rows, said = ROWS[name]
    lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    found = told(doctor.check_log(str(tmp_path / "log.csv")))
    assert found[name][0] == status
    assert said in found[name][1]


def test_more_that_is_odd_in_a_log(tmp_path, folder):
    def of(rows) -> dict[str, tuple[str, str]]:
        lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
        (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
        return told(doctor.check_log(str(tmp_path / "log.csv"), Model.load(folder).items))

    assert of([(1, "x", NOW + n // 8) for n in range(9)])["times"][1].startswith("88% of events")
    assert "all events are of 2023-11-14" in of([(1, n, NOW) for n in range(9)])["times"][1]
    half = [(u, 5, NOW + n) for u in range(9) for n in range(9 if u < 4 else 2)]
    assert "5 have fewer than 5 and are left out" in of(half)["histories of the log"][1]
    assert (
        "ids: text in the log, numbers in the model"
        in of([(1, "x", NOW), (1, "y", NOW + 1)])["items of the log"][1]
    )
    known = int(Model.load(folder).items.ids[0])
    share = of([(1, known, NOW), (1, known, NOW + 1), (1, 10**9, NOW + 2)])["items of the log"]
    assert share[0] == "warning"
    assert "knows those of 66.7% of events" in share[1]
    assert of([(1, "", NOW)]).keys() == {"log"}
    made = told(doctor.check_log("synthetic(users=9, items=60, length=20)"))
    assert made["order of rows"] == ("ok", "made in order")


def test_the_command_looks_at_all_of_it(folder, store, tmp_path, capsys):
    words = ["doctor", "--store", store, "--model", str(folder), "--data", "nowhere.csv", "--json"]
    assert main(words) == 1
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert found["log"]["status"] == "broken"
    assert found["states"]["status"] == "ok"
    assert main(words[:-3]) == 0

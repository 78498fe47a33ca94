"""The command line, run in this process where that shows the same."""

import contextlib
import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cyclopts import App

from gistrec import catalogue, registry
from gistrec.cli import app as gistrec_app
from gistrec.cli import main
from gistrec.cli._settings import TrainingSettings
from gistrec.cli.train import train as train_verb
from gistrec.events import Events, read
from gistrec.history_log import HistoryLog
from gistrec.measure import Rules
from gistrec.stores import open_store
from gistrec.testing.servers import valkey_server
from gistrec.train import Model, Training

LOG = "synthetic(users=30, items=60, length=40)"
SMALL = ["--backbone", "hstu(width=8, num_layers=1)", "--epochs", "2"]


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    assert main(["data", "make", LOG, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    words = ["train", "--data", log, "--out", folder, *SMALL, "--codec", "recent(keep=8) | int8"]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def service(tmp_path: Path, model: Path) -> list[object]:
    return ["--model", model, "--store", f"lmdb://{tmp_path / 'users'}?map_size=64m"]


# ---- help and wrong use ----


def verbs(app: App, *words: str) -> list[str]:
    """All that can be called."""
    names = [name for name in app if not name.startswith("-")]
    return [v for name in names for v in verbs(app[name], *words, name)] or [" ".join(words)]


@pytest.mark.parametrize("verb", verbs(gistrec_app))
def test_every_verb_has_help_and_takes_json(run: Run, verb: str):
    done = run(*verb.split(), "--help")
    assert done.code == 0
    assert f"Usage: gistrec {verb}" in done.out
    assert "--json" in done.out


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from gistrec.cli import main; main(['--help']); main(['train', '--help']);"
        "sys.exit(bool({'torch', 'duckdb', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_is_a_script_for_the_shell(run: Run, shell: str):
    done = run("completion", shell)
    assert "gistrec" in done.out
    assert run("completion", shell, "--json").document["script"].strip() == done.out.strip()


def test_bash_takes_the_completion_script(run: Run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = run("completion", "bash", "--install", "--json").document["installed"]
    assert Path(path).is_relative_to(tmp_path)
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def in_a_terminal(*words: str) -> str:
    """What a person sees in 120 columns."""
    import pty

    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, "-m", "gistrec", *words]
    gistrec = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # of a terminal that was closed
        while part := os.read(leader, 4096):
            seen += part
    os.close(leader)
    assert gistrec.wait() == 0
    return seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pseudo-terminals")
def test_a_terminal_gets_tables_and_progress_and_a_pipe_does_not(run: Run, log, tmp_path):
    store = f"lmdb://{tmp_path / 'users'}?map_size=16m"
    seen = in_a_terminal("import", str(log), "--store", store)
    assert "importing" in seen
    assert "of 1,200 events" in seen
    assert "1,200 events of 30 users added" in re.sub(r"\s+", " ", seen)
    assert run("import", log, "--store", store).err == ""
    seen = in_a_terminal("state", "stats", "--store", store)
    assert "history log" in seen
    assert "\u2500\u2500" in seen
    assert "\u2500" not in run("state", "stats", "--store", store).out


def test_version(run: Run):
    assert run("--version").out.startswith("0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["state", "shwo", "ada"], 'Did you mean "show"?'),
        (["train", "--out", "m", "--data", "x", "--epoch", "3"], "Did you mean --epochs"),
        (["train", "--data", "x"], "--out requires an argument"),
        (["train", "--data", "x", "--out", "m", "--epochs", "many"], 'unable to convert "many"'),
        (["train", "--data", "x", "--out", "m", "--scheme", "last"], "last_basket"),
        (["train", "--data", LOG, "--out", "m", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "--data", LOG, "--out", "m", "--backbone", "hsut()"], "did you mean 'hstu'"),
        (["train", "--data", "nowhere.csv", "--out", "m", "--codec", "itn8"], "mean 'int8'"),
        (["train", "--data", "synthetic(user=3)", "--out", "m"], "did you mean 'users'"),
        (["train", "--data", "synthetic(users)", "--out", "m"], "got an option without a name"),
        (["train", "--data", "synthetic(users=9or 1)", "--out", "m"], "invalid decimal literal"),
        (["train", "--data", r"csv(path='\data')", "--out", "m"], "invalid escape sequence"),
        (["bench", "--data", LOG], "give either --model FOLDER or --backbone SPEC"),
        (["bench", "--data", LOG, "--model", "m", "--backbone", "hstu"], "give either --model"),
        (["bench", "--data", LOG, "--model", "m", "--seed", "1"], "--model is trained already"),
        (["bench", "--data", LOG, "--model", "m", "--codec", "recent"], "recent needs keep"),
        (["bench", "--data", LOG, "--model", "m", "--codec", "zstd | int8"], "can't follow"),
        (["plan", "--data", LOG, "--budget-bytes", "9"], "give either --model FOLDER or"),
        (["serve"], "give either --model FOLDER or --run FILE"),
        (["serve", "--model", "m", "--then", "twin"], "--then takes FOLDER=COUNT"),
        (["serve", "--model", "m", "--rebuilds", "0"], "at_once of rebuilds is 0, allowed is 1"),
        (["data", "get", "ml-1mm"], "did you mean 'ml-1m'"),
        (["methods", "recnt"], "did you mean 'recent'"),
        (["methods", "--family", "codec"], "codecs"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not (tmp_path / "m" / "model.json").exists()


def test_a_wrong_store_is_wrong_use(run: Run, model: Path):
    done = run("recommend", "ada", "--model", model, "--store", "users")
    assert done.code == 2
    assert "'users' is not a store URL: write ram:// or lmdb://" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "stats", "nowhere.parquet"], "nowhere.parquet"),
        (["train", "--data", "nowhere.csv", "--out", "m"], "nowhere.csv"),
        (["train", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["bench", "--data", LOG, "--model", "nowhere"], "nowhere is not a finished model folder"),
        (["report", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["serve", "--model", "nowhere"], "nowhere is not a finished model folder"),
        (["recommend", "ada", "--model", "nowhere", "--store", "ram://"], "not a finished model"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_fails_is_one_line_and_exit_code_1(run: Run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-m", "gistrec", "methods"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as gistrec:
        gistrec.stdout.close()
        assert gistrec.stderr.read() == b""
    assert gistrec.returncode == 0


# ---- data ----


def test_data_list_names_what_can_be_fetched(run: Run):
    assert "ml-1m" in run("data", "list").out
    assert run("data", "list", "--json").document["ml-1m"]["size_bytes"] == 5_917_549


def test_data_get_without_a_network_says_how_to_bring_the_file(run: Run, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    done = run("data", "get", "ml-1m", "--out", tmp_path)
    assert done.code == 1
    assert "no route to host" in done.err
    assert str(tmp_path / "ml-1m.zip") in done.err
    assert list(tmp_path.iterdir()) == []


def test_data_get_says_how_to_read_what_it_brought(run: Run, tmp_path):
    (tmp_path / "ml-1m").mkdir()  # is there already
    done = run("data", "get", "ml-1m", "--out", tmp_path)
    assert f"--data {tmp_path / 'ml-1m'}" in done.out
    assert "research use" in done.err
    assert run("data", "get", "ml-1m", "--out", tmp_path, "--quiet").err == ""


def test_data_stats(run: Run, log: Path):
    assert "users               30\n" in run("data", "stats", log).out
    assert run("data", "stats", log, "--json").document["events"] == 1200


def test_data_make_writes_what_read_gives_back(run: Run, tmp_path, monkeypatch):
    events = Events(
        user_id=np.array(["ada", "ada", "bob"], object),
        item_id=np.array([7, 5, 7]),
        timestamp=np.array([10, 20, 15]),
        titles={5: "five", 7: "seven"},
    )
    monkeypatch.setattr("gistrec.events.read", lambda spec: events)
    out = tmp_path / "new" / "log.parquet"
    assert run("data", "make", "whatever()", "--out", out).out == f"{out}: 3 events\n"
    monkeypatch.undo()
    back = read(out)
    for field in (f for f in dataclasses.fields(Events) if f.compare):
        wrote, found = getattr(events, field.name), getattr(back, field.name)
        assert np.array_equal(wrote, found) if isinstance(wrote, np.ndarray) else wrote == found
    assert sorted(p.name for p in out.parent.iterdir()) == ["log-items.parquet", "log.parquet"]


# ---- train ----


def test_training_options_default_to_the_librarys():
    ours = dataclasses.asdict(TrainingSettings())
    parameters = inspect.signature(train_verb).parameters
    ours |= {name: parameters[name].default for name in ("epochs", "holdout")}
    library = dataclasses.asdict(Training())
    assert ours == {name: library[name] for name in ours}
    assert library.keys() - ours.keys() == {"warmup_steps"}


def test_train_leaves_a_model_a_recipe_and_the_run(model: Path):
    assert (model / "recipe" / "recipe.json").is_file()
    written = tomllib.loads((model / "run.toml").read_text())
    assert written["backbone"] == "hstu(width=8, num_layers=1)"
    assert written["codec"] == "recent(keep=8, sink=4) | int8()"
    assert (written["epochs"], written["seed"], written["learning_rate"]) == (2, 0, 0.002)
    assert written["log"]["events"] == 1200
    assert Model.load(model).training == Training(epochs=2)


def test_a_finished_training_is_measured_again_and_not_repeated(run: Run, log, model):
    before = (model / "weights.safetensors").stat().st_mtime_ns
    done = run("train", "--data", log, "--out", model, *SMALL)
    assert done.code == 0
    assert "not trained again" in done.err
    assert (model / "weights.safetensors").stat().st_mtime_ns == before
    again = run("train", "--data", log, "--out", model, *SMALL, "--json")
    assert again.err == ""
    assert f"NDCG@10 {again.document['ndcg_10']:.4f}" in done.out
    assert again.document["users"] == 30
    assert again.document["train_seconds"] == Model.load(model).seconds > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--data", LOG, "--seed", "1"], "(seed 0, not 1)"),
        (["--data", "synthetic(users=29, items=60, length=40)"], "(another log)"),
        (
            ["--data", LOG, "--holdout", "0", "--max-len", "9"],
            "(holdout 1, not 0; max_len 1024, not",
        ),
    ],
)
def test_a_folder_keeps_its_training(run: Run, model, changes, said):
    done = run("train", "--out", model, *SMALL, *changes)
    assert done.code == 2
    assert said in done.err


def test_a_folder_of_unknown_origin_is_left_alone(run: Run, log, model, tmp_path):
    Model.load(model).save(tmp_path)
    done = run("train", "--data", log, "--out", tmp_path, *SMALL)
    assert done.code == 2
    assert "holds a model, but no run.toml: give another folder" in done.err


def test_a_killed_training_is_continued(run: Run, log, model, tmp_path, monkeypatch):
    words = ["train", "--data", log, "--out", tmp_path / "m", *SMALL]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "save", killed)
        assert run(*words) == Done(130, "", "error: interrupted\n")
    done = run(*words)
    assert done.code == 0
    assert "it is continued" in done.err
    same = [(folder / "weights.safetensors").read_bytes() for folder in (model, tmp_path / "m")]
    assert same[0] == same[1]


def test_nothing_held_out_is_nothing_measured(run: Run, log, tmp_path):
    done = run("train", "--data", log, "--out", tmp_path, *SMALL, "--holdout", "0", "--json")
    assert done.code == 0
    assert done.document["train_seconds"] > 0
    assert "ndcg_10" not in done.document


def test_a_run_file_gives_the_same_model(run: Run, model, tmp_path):
    done = run("train", "--config", model / "run.toml", "--out", tmp_path / "m", "--quiet")
    assert (done.code, done.err) == (0, "")
    for name in ("weights.safetensors", "run.toml", "recipe/recipe.safetensors"):
        assert (tmp_path / "m" / name).read_bytes() == (model / name).read_bytes()


def test_flags_override_the_run_file(run: Run, log, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'data = "{log}"\nepochs = 7\nlearning-rate = 0.01\nmax_len = 16\n')
    done = run("train", "--config", file, "--out", tmp_path / "m", "--epochs", "1", *SMALL[:2])
    assert done.code == 0
    training = Model.load(tmp_path / "m").training
    assert (training.epochs, training.learning_rate, training.max_len) == (1, 0.01, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epocs = 3", "Did you mean --epochs?"),
        ("epochs = 'many'", "unable to convert"),
        ("epochs = ", "is not TOML"),
        ("[train]\nepochs = 3", "Unknown option"),
    ],
)
def test_a_wrong_run_file_is_wrong_use(run: Run, tmp_path, text, said):
    file = tmp_path / "run.toml"
    file.write_text(text)
    done = run("train", "--config", file, "--data", LOG, "--out", tmp_path / "m")
    assert done.code == 2
    assert said in done.err
    assert str(file) in done.err


# ---- bench and report ----


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, log: Path, model: Path) -> Path:
    out = tmp_path_factory.mktemp("bench") / "results.jsonl"
    words = ["bench", "--data", log, "--model", model, "--out", out, "--users", 12, "--online"]
    words += ["--codec", "recent(keep=8) | int8", "--codec", "bf16"]
    words += ["--budget-bytes", 200, "--budget-bytes", 400]
    assert main([str(word) for word in words]) == 0
    return out


def test_bench_measures_recipes_and_references(results: Path):
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert {"baseline", "recompute", "identity", "recipe"} == {row["kind"] for row in rows}
    assert {row["data"] for row in rows} == {"log.parquet"}
    assert {row["budget_bytes"] for row in rows} == {None, 200, 400}
    assert {row["online"] for row in rows if row["kind"] == "recipe"} == {True, False}
    assert {row["users"] for row in rows} == {12}


def test_bench_shows_a_table_and_measures_nothing_twice(run: Run, log, model, results):
    before = results.read_bytes()
    words = ["bench", "--data", log, "--model", model, "--out", results, "--users", 12, "--online"]
    done = run(*words, "--codec", "bf16")
    assert done.code == 0
    assert results.read_bytes() == before
    shown = [line.split("  ")[0] for line in done.out.splitlines()]
    assert {"recompute", "popularity", "bf16()", "identity()"} <= set(shown)
    assert f"gistrec report {results} --html" in done.out
    rows = run(*words, "--codec", "bf16", "--json").document["rows"]
    assert "bf16()" in {row["recipe"] for row in rows}


def test_bench_trains_beside_its_results(run: Run, log, tmp_path):
    words = ["bench", "--data", log, *SMALL, "--out", tmp_path / "r.jsonl", "--users", 5, "--json"]
    done = run(*words)
    assert done.code == 0
    (folder,) = tmp_path.glob("r-model-*")
    assert Model.load(folder).training.epochs == 2
    assert done.document["rows"][-1]["train_seconds"] > 0
    before = (tmp_path / "r.jsonl").read_bytes()
    again = run(*words)
    assert len(again.document["rows"]) == len(done.document["rows"])
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_a_finished_job_of_a_grid_needs_not_even_its_model(run: Run, log, tmp_path, monkeypatch):
    job = catalogue.Job("hstu(num_layers=1, width=8)", {"bf16()": (4096,)})
    rules = Rules(users=8, online_users=4, online_events=2, fit_users=8, requests=0)
    monkeypatch.setattr(catalogue, "jobs", lambda backbone: [job])
    monkeypatch.setattr(catalogue, "RULES", rules)
    words = ["bench", "--data", log, *SMALL, "--grid", "catalogue", "--out", tmp_path / "r.jsonl"]
    assert run(*words).code == 0
    before = (tmp_path / "r.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "r-models")
    again = run(*words)
    assert "r-jobs.jsonl says that this is done" in again.err
    assert not (tmp_path / "r-models").exists()
    assert (tmp_path / "r.jsonl").read_bytes() == before
    assert run(*words, "--seed", 1).code == 0
    assert (tmp_path / "r-models").exists()


def test_report(run: Run, results: Path, tmp_path):
    table = run("report", results)
    assert "identity()" in table.out
    assert "| `identity()` |" in run("report", results, "--markdown").out
    page = tmp_path / "new" / "report.html"
    assert f"open {page}" in run("report", results, "--html", page).out
    assert page.read_text().startswith("<!doctype html>")
    (bench,) = run("report", results, "--json").document["benches"]
    best = [point for point in bench["points"] if point["on_frontier"]]
    assert 0 < len(best) < len(bench["points"])


def test_report_of_nothing(run: Run, tmp_path):
    (tmp_path / "r.jsonl").touch()
    done = run("report", tmp_path / "r.jsonl")
    assert done.code == 1
    assert "holds no result row: run `gistrec bench` first" in done.err


# ---- users ----


def test_a_store_is_built_looked_at_and_emptied(run: Run, log, service):
    assert run("import", log, *service[-2:]).code == 0
    built = run("state", "build", *service)
    assert built.out.startswith("30 users with 1,200 events built in lmdb://")
    again = run("state", "build", *service, "--json").document
    assert (again["users"], again["current"], again["unknown"]) == (0, 30, 0)
    shown = run("state", "show", "3", *service, "--json").document
    assert (shown["length"], shown["slots"]) == (40, 8)
    assert shown["codec"] == "recent(keep=8, sink=4) | int8()"
    assert "length       40\n" in run("state", "show", "3", *service).out
    words = ["state", "stats", "--store", service[-1], "--project-users", 3000]
    stats = run(*words, "--json").document
    (version,) = stats["versions"]
    assert stats["log"]["users"] == version["states"]["users"] == 30
    assert version["codec"] == shown["codec"]
    assert version["states"]["bytes_p50"] == pytest.approx(shown["state_bytes"], rel=0.2)
    assert stats["projected"]["log_bytes"] == 100 * stats["log"]["bytes_total"]
    table = run(*words).out.splitlines()
    assert table[0].endswith("of 3,000 users")
    assert [line.split()[0] for line in table[1:]] == ["history", version["version"]]
    assert run("state", "forget", "3", *service).out == "3 is erased\n"
    assert run("state", "forget", "3", *service, "--json").document["erased"] is False
    gone = run("state", "show", "3", *service)
    assert gone.code == 1
    assert "nothing is stored about user '3'" in gone.err


def test_versions_are_switched_limited_and_dropped(run: Run, log, service, model, tmp_path):
    store = ["--store", service[-1]]
    run("import", log, *service[-2:])
    run("state", "build", *service)
    other = tmp_path / "other"
    Model.load(model).save(other)  # the same model with another recipe
    run("state", "fit", "--model", other, "--codec", "bf16()", "--data", log)
    new = ["--model", other, *store]
    first = run("state", "switch", *service, "--json").document
    assert first["before"] == ""
    assert run("state", "show", "3", *new, "--json").document["codec"] == "bf16()"
    switched = run("state", "switch", *new, "--json").document
    assert switched["before"] == first["serving"] != switched["serving"]
    answer = run("serve", "--model", model, "--model", other, *store, "--get", "/v1/stats")
    assert answer.document["codec"] == "bf16()"
    assert f"{switched['serving']}*" in run("state", "stats", *store).out

    refused = run("state", "drop", switched["serving"], *store)
    assert refused.code == 2
    assert "switch to another first" in refused.err
    dropped = run("state", "drop", first["serving"], *store, "--json").document
    assert dropped["states"] == 30
    assert dropped["bytes"] > 0
    again = run("state", "drop", first["serving"], *store)
    assert again.code == 2
    assert f"it has those of {switched['serving']}" in again.err

    assert run("state", "limit", *store).out.split() == [
        *("state_ttl_s", "none", "state_budget_bytes", "none", "log_ttl_s", "none")
    ]
    words = ["--state-ttl", "30d", "--state-budget", "1.5k", "--log-ttl", "400d", "--json"]
    assert run("state", "limit", *store, *words).document == {
        "state_ttl_s": 30 * 86_400,
        "state_budget_bytes": 1536,
        "log_ttl_s": 400 * 86_400,
    }
    limited = run("state", "limit", *store, "--state-budget", "1", "--log-ttl", "none", "--json")
    assert limited.document["log_ttl_s"] is None
    swept = run("state", "sweep", *store, "--json").document
    assert (swept["evicted"], swept["state_bytes"], swept["forgotten"]) == (1, 0, 0)
    wrong = run("state", "limit", *store, "--state-ttl", "soon")
    assert wrong.code == 2
    assert "--state-ttl soon is not understood: give for example 30d" in wrong.err


def test_recommend(run: Run, log, service):
    run("import", log, *service[-2:])
    run("state", "build", *service)
    found = run("recommend", "3", *service, "-k", 4, "--json").document
    assert found["user_id"] == "3"
    assert len(found["items"]) == 4
    text = run("recommend", "3", *service, "-k", 4).out
    assert [line.split()[2] for line in text.splitlines()[1:]] == [
        str(item["item_id"]) for item in found["items"]
    ]
    assert run("recommend", "somebody new", *service).code == 0


def test_state_fit_changes_how_states_are_stored(run: Run, log, model, tmp_path):
    folder = tmp_path / "m"
    Model.load(model).save(folder)
    words = ["state", "fit", "--model", folder, "--codec", "rvq(levels=1, codes=8)"]
    fitted = run(*words, "--data", log)
    assert fitted.code == 0
    assert "rvq(levels=1, codes=8)" in fitted.out
    assert run(*words, "--data", log, "--json").document["shared_bytes"] > 0
    answer = run("serve", "--model", folder, "--get", "/v1/stats", "--json").document
    assert "rvq(levels=1, codes=8)" in answer["body"]
    other = run(*words, "--data", "synthetic(users=9, items=50, length=30)")
    assert other.code == 1
    assert "measure on the log" in other.err


def test_serve_answers_one_request_and_exits(run: Run, model):
    answer = run("serve", "--model", model, "--get", "/v1/users/ada/recommendations?k=3")
    assert answer.code == 0
    assert len(answer.document["items"]) == 3
    missing = run("serve", "--model", model, "--get", "/nowhere", "--json")
    assert missing.code == 1
    assert missing.document["status"] == 404


def test_serve_serves_until_it_is_told_to_stop(model: Path, tmp_path):
    command = [sys.executable, "-m", "gistrec", "serve", "--model", model, "--port", "0"]
    command += ["--store", f"lmdb://{tmp_path / 'users'}?map_size=64m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[3]
            with urllib.request.urlopen(f"{url}/healthz") as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0


def test_two_servers_share_the_users_of_a_redis_store(model: Path, tmp_path):
    """Also while the store is away and comes back."""
    with valkey_server(tmp_path, "--appendfsync", "always") as valkey, ExitStack() as stack:
        command = [sys.executable, "-m", "gistrec", "serve", "--model", model, "--port", "0"]
        command += ["--store", f"{valkey.url}?timeout_s=0.1"]
        urls = []
        for _ in range(2):
            server = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.send_signal, signal.SIGTERM)
            urls.append(server.stdout.readline().split()[3])

        def post(url: str, item: int) -> dict[str, Any]:
            body = json.dumps({"events": [{"item_id": item}]}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/users/ann/events", body, headers)
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)

        assert [post(urls[n % 2], n)["length"] for n in range(4)] == [1, 2, 3, 4]
        valkey.kill()
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(urls[0], 4)
        assert caught.value.code == 503
        assert json.load(caught.value)["error"]["type"] == "StoreUnavailableError"
        valkey.start()
        assert post(urls[1], 5)["length"] == 5


# ---- methods, demo ----


def test_methods_lists_the_registry(run: Run):
    found = {(m["family"], m["name"]) for m in run("methods", "--json").document["methods"]}
    assert found == {(f, name) for f in registry.FAMILIES for name in registry.names(f)}
    codecs = run("methods", "--family", "codecs").out
    assert "  recent(keep, sink=4)\n      Keep the oldest `sink` slots" in codecs
    assert "lmdb" not in codecs


def test_methods_describes_one(run: Run):
    said = run("methods", "recent").out
    assert said.startswith("recent(keep, sink=4)    [codecs]\n")
    assert "Source: Xiao" in said
    assert "keep (required)\n      Slots kept." in said


def test_methods_markdown_is_the_page(run: Run):
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    page = re.sub(r"\n\*\*Measured\*\*.*\n", "", text)  # what the project's own rows say
    assert run("methods", "--markdown").out == page
    assert run("methods", "recent", "--markdown").out in page
    assert "### lmdb" not in run("methods", "--markdown", "--family", "codecs").out


def test_demo_passes_its_options_on(run: Run, tmp_path, monkeypatch):
    calls = []

    def demo(folder: Path, *, quick: bool, console: Any) -> None:
        calls.append((folder, quick))
        console.print("a tour")

    from gistrec import demo as module

    monkeypatch.setattr(module, "run", demo)
    assert run("demo", "--folder", tmp_path, "--quick") == Done(0, "a tour\n", "")
    in_json = run("demo", "--folder", tmp_path, "--json")
    assert (in_json.document, in_json.err) == ({"folder": str(tmp_path)}, "a tour\n")
    assert calls == [(tmp_path, True), (tmp_path, False)]


def test_import_and_export(run: Run, log: Path, tmp_path: Path):
    store, out = f"lmdb://{tmp_path / 'users'}?map_size=64m", tmp_path / "out.parquet"
    first = run("import", log, "--store", store, "--json")
    assert first.code == 0
    assert (first.document["users"], first.document["events"]) == (30, 1200)
    again = run("import", log, "--store", store)
    assert "0 events of 30 users added" in again.out
    assert "1,200 were there already" in again.out
    assert run("export", "--store", store, "--out", out).out == f"{out}: 1,200 events of 30 users\n"
    assert read(out).item_id.tolist() == read(log).item_id.tolist()


def test_an_export_with_actions_says_how_they_come_back(run: Run, tmp_path: Path):
    log, out = tmp_path / "log.csv", tmp_path / "out.parquet"
    log.write_text("user_id,item_id,timestamp,did\n7,1,5,2\n7,2,6,3\n")
    stores = [f"lmdb://{tmp_path / name}?map_size=64m" for name in "ab"]
    run("import", f"csv(path='{log}', action='did')", "--store", stores[0])
    said = run("export", "--store", stores[0], "--out", out).out
    spec = re.search(r'import it as "(.+)"\n', said)[1]
    run("import", spec, "--store", stores[1])
    with open_store(stores[1]) as store:
        assert HistoryLog(store).read("7").action.tolist() == [2, 3]


def test_an_import_that_contradicts_the_store_fails(run: Run, tmp_path: Path):
    store = f"lmdb://{tmp_path / 'users'}?map_size=64m"
    logs = [tmp_path / "one.csv", tmp_path / "other.csv"]
    for log, item in zip(logs, (5, 6), strict=True):
        log.write_text(f"user_id,item_id,timestamp\n7,{item},{100 - item}\n")
    assert run("import", logs[0], "--store", store).code == 0
    found = run("import", logs[1], "--store", store)
    assert found.code == 1
    assert "1 users were left as they are, such as '7'" in found.out


def test_vectors(run: Run, log: Path, service, model: Path, tmp_path: Path):
    out = tmp_path / "vectors"
    assert run("vectors", "--model", model, "--out", out).out == f"{out}: vectors of 60 items\n"
    assert run("import", log, "--store", service[3]).code == 0
    found = run("vectors", *service, "--out", out, "--json").document
    assert found == {"vectors": str(out), "items": 60, "users": 30}
    assert sorted(p.name for p in out.iterdir()) == ["items.parquet", "users.parquet"]


def test_an_import_into_memory_is_refused(run: Run, log: Path):
    assert run("import", log, "--store", "ram://").code == 2

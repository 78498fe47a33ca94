"""The dashboard's files and routes; what it does in a browser is in `test_pages`."""

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from gistrec.dataset import History
from gistrec.recipe import Recipe
from gistrec.recommender import Recommender, identity_recipe
from gistrec.server.budget import ResultFiles
from gistrec.server.keys import KeyRing, add_key
from gistrec.state import UserState
from gistrec.stores import open_store
from gistrec.train import Model

PAGES = sorted((files("gistrec.server") / "pages").iterdir(), key=lambda page: page.name)
OURS = [page for page in PAGES if not page.name.startswith("uplot")]
EVENTS = [{"item_id": n, "timestamp": 1_600_000_000 + n} for n in range(12)]


@pytest.fixture
def two(model: Model) -> Recommender:
    """Two versions on one store."""
    whole = identity_recipe(model)
    half = Recipe.fit("bf16()", _samples(model), model=model.backbone.fingerprint())
    return Recommender(model, whole, open_store("ram://"), standby=[(model, half)])


def _samples(model: Model) -> list[UserState]:
    return model.backbone.prefill(
        [History(np.arange(n), np.arange(n)) for n in (0, 1, 2, 8)], hints=True
    )


# ---- files ----


def test_the_page_and_all_of_its_files_are_given(http) -> None:
    page = http("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="pages/([^"]+)"', page.text))
    for text in [p.read_text() for p in OURS]:
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named == {p.name for p in PAGES} - {"index.html", "uplot-licence.txt"}
    for name in (p.name for p in PAGES):
        answer = http("GET", f"/pages/{name}")
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] != "application/json"


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "%2e%2e%2fapp.py", "__init__.py"])
def test_no_other_file_is_given(http, name: str) -> None:
    assert http.error("GET", f"/pages/{name}")[:2] == (404, "NotFoundError")


def test_the_policy_lets_nothing_in_but_files_of_this_server(http) -> None:
    policy = http("GET", "/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", http("GET", "/").text)


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_modules_parse_nothing_as_html_and_store_nothing(page) -> None:
    text = page.read_text()
    markup = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|setTimeout\(\""
    )
    assert not re.search(markup, text)
    assert not re.search(
        r"localStorage|sessionStorage|indexedDB|\.cookie|history\.(push|replace)", text
    )
    assert set(re.findall(r"https?://[^\s\"]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert len(text.splitlines()) <= 400


# ---- routes ----


def test_access_says_what_a_key_may(serving, fake, tmp_path: Path) -> None:
    assert serving(fake)("GET", "/v1/access").json() == {
        "asks_for_keys": False,
        "name": None,
        "scopes": ["read", "write", "admin"],
    }
    key = add_key(tmp_path / "keys.jsonl", "shop", ["read", "write"])
    http = serving(fake, keys=KeyRing(tmp_path / "keys.jsonl"))
    answer = http("GET", "/v1/access", headers={"Authorization": f"Bearer {key}"}).json()
    assert answer == {"asks_for_keys": True, "name": "shop", "scopes": ["read", "write"]}
    assert http.error("GET", "/v1/access")[:2] == (401, "UnauthenticatedError")
    wrong = {"Authorization": "Bearer wrong"}
    assert http.error("GET", "/v1/access", headers=wrong)[0] == 401
    for method, path in (
        ("POST", "/v1/look/state"),
        ("GET", "/v1/versions"),
        ("PUT", "/v1/serving"),
    ):
        assert http.error(method, path, headers=wrong)[0] == 401
    admin = {"Authorization": f"Bearer {key}"}
    body = {"version": "01234567"}
    assert http.error("PUT", "/v1/serving", json=body, headers=admin)[:2] == (403, "ForbiddenError")


def test_versions_are_counted_and_switched(serving, two: Recommender) -> None:
    http = serving(two)
    first, second = two.versions
    for user in ("ann", "bob"):
        http.post(f"/v1/users/{user}/events", {"events": EVENTS})
    answer = http("GET", "/v1/versions").json()
    assert answer["log"]["users"] == 2
    assert answer["log"]["bytes_total"] == sum(two.log.nbytes(u) for u in ("ann", "bob"))
    one, other = answer["versions"]
    assert (one["version"], one["serving"], one["here"]) == (first, True, True)
    assert one["states"]["users"] == 2
    assert one["states"]["bytes_total"] == two.stats().bytes_total
    assert (one["num_items"], one["item_id_type"]) == (30, "integer")
    assert (other["version"], other["serving"], other["states"]["users"]) == (second, False, 0)
    assert other["codec"] == "bf16()"

    switched = http("PUT", "/v1/serving", json={"version": second}).json()
    assert (switched["serving"], switched["before"]) == (second, first)
    assert two.served.version == second
    assert [v["version"] for v in http("GET", "/v1/versions").json()["versions"]] == [second, first]
    switched = http("PUT", "/v1/serving", json={"version": first}).json()
    assert (switched["serving"], switched["before"]) == (first, second)
    assert two.served.version == first


def test_a_version_that_is_not_here_can_not_serve(serving, two: Recommender) -> None:
    http = serving(two)
    status, kind, message = http.error("PUT", "/v1/serving", json={"version": "00000000"})
    assert (status, kind) == (404, "NotFoundError")
    assert all(version in message for version in two.versions)
    assert http.error("PUT", "/v1/serving", json={"version": "x"})[0] == 422


def test_versions_of_the_store_that_are_not_here_are_named(serving, two, model: Model) -> None:
    http = serving(two)
    http.post("/v1/users/ann/events", {"events": EVENTS})
    http("PUT", "/v1/serving", json={"version": list(two.versions)[1]})
    http("GET", "/v1/users/ann/recommendations")
    alone = Recommender(model, identity_recipe(model), two.store)
    reports = serving(alone)("GET", "/v1/versions").json()["versions"]
    assert [(v["here"], v["backbone"] is None) for v in reports] == [(True, False), (False, True)]
    assert reports[1]["codec"] == "bf16()"
    assert reports[1]["states"]["users"] == 1


def test_a_user_is_looked_at(serving, two: Recommender) -> None:
    http = serving(two)
    http.post("/v1/users/ann/events", {"events": EVENTS})
    past = http.post("/v1/look/history", {"user_id": "ann", "events": 2})
    assert (past["length"], past["start"]) == (12, 10)
    assert past["events"][1] == {
        "item_id": 11,
        "title": "11",
        "timestamp": 1_600_000_011,
        "action": None,
    }
    kept = http.post("/v1/look/state", {"user_id": "ann", "k": 5})
    assert kept["stored"] is True
    assert kept["fates"] == [{"fate": "kept", "events": 11}, {"fate": "waiting", "events": 1}]
    listed = http("GET", "/v1/users/ann/recommendations?k=5").json()
    assert kept["items"] == listed["items"]
    assert kept["state_bytes"] == listed["state_bytes"]
    assert 0 <= kept["state_bytes"] - sum(kept["parts"].values()) <= 40
    beside = http.post("/v1/look/recipe", {"user_id": "ann", "version": list(two.versions)[1]})
    assert (beside["stored"], beside["codec"]) == (False, "bf16()")
    assert beside["state_bytes"] < kept["state_bytes"]
    typed = http.post("/v1/look/recipe", {"user_id": "ann", "codec": "recent(keep=3, sink=0)"})
    assert typed["slots"] == 3


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("history", {"user_id": "ann", "events": 501}, 422),
        ("history", {"user_id": "ann", "before": -1}, 422),
        ("history", {"user_id": "", "events": 5}, 422),
        ("history", {"user_id": "x" * 257}, 400),
        ("state", {"user_id": "ann", "k": 0}, 422),
        ("recipe", {"user_id": "ann", "version": "nothing!"}, 422),
        ("recipe", {"user_id": "ann", "version": "00000000"}, 400),
        ("recipe", {"user_id": "ann", "codec": "int8("}, 400),
        ("recipe", {"user_id": "ann", "codec": "x" * 1001}, 422),
    ],
)
def test_looks_that_do_not_fit(serving, two, path: str, body: dict, status: int) -> None:
    assert serving(two).error("POST", f"/v1/look/{path}", json=body)[0] == status


def test_results_are_given(serving, fake) -> None:
    assert serving(fake)("GET", "/v1/results").json()["benches"] == []
    demo = Path(__file__).parents[2] / "docs" / "results" / "demo.jsonl"
    answer = serving(fake, results=ResultFiles((demo,)))("GET", "/v1/results").json()
    assert [bench["data"] for bench in answer["benches"]] == ["completejourney"]
    assert answer["errors"] == []

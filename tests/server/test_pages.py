"""The dashboard in a real browser: every page and every button, and what goes wrong.

With GISTREC_SCREENSHOTS=folder the pictures of the documentation are written there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest

from gistrec import summary
from gistrec.build import Builder, fit_recipe
from gistrec.dataset import Dataset
from gistrec.events import read
from gistrec.recommender import Recommender
from gistrec.results import load
from gistrec.server.keys import add_key
from gistrec.stored_states import state_key
from gistrec.stores import Put
from gistrec.train import train
from gistrec.transfer import import_events

playwright = pytest.importorskip(
    "playwright.sync_api", reason='needs playwright: pip install "gistrec[dev]"'
)
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"), reason="needs chromium: apt install chromium"
    ),
]
ROOT = Path(__file__).parents[2]
AXE = Path(__file__).with_name("axe.min.js")
RESULTS = ROOT / "docs" / "results"
LOG = "completejourney(users=60, min_item_events=20)"
USERS = 100_000
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>&amp;</b>"
PAGES = ("overview", "user", "budget", "models")
expect = playwright.expect
expect.set_options(timeout=20_000)


# ---- a model with two recipes, and a store with many users ----


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset.from_events(read(LOG), min_events=20)


@pytest.fixture(scope="module")
def models(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders with one model, and a recipe each."""
    folder = tmp_path_factory.mktemp("pages")
    model = train(
        data,
        "hstu(width=16, repeats=True, negatives=256, temperature=0.1)",
        epochs=2,
        max_len=256,
        scheme="last_basket",
        learning_rate=4e-3,
    )
    folders = []
    for name, codec in (
        ("forgetting", "recent(keep=128, sink=0) | rvq(levels=1, codes=64)"),
        ("merging", "mergeevict(keep=32, sink=2, window=8) | int8()"),
    ):
        folders.append(folder / name)
        model.save(folders[-1])
        fit_recipe(model, data, codec).save(folders[-1] / "recipe")
    return folders


def rare(data: Dataset) -> tuple[int, int]:
    """A user whose newest item is one of the rarest, and the item's index."""
    count = np.bincount(data.item_index)
    newest = data.item_index[data.offsets[1:] - 1]
    user = int(count[newest].argmin())
    return user, int(newest[user])


@pytest.fixture(scope="module")
def hostile(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of titles in which a rare item is called like HTML."""
    item = data.items.ids[rare(data)[1]]
    path = tmp_path_factory.mktemp("titles") / "titles.csv"
    quoted = HOSTILE.replace('"', '""')
    path.write_text(f'item_id,title\n{item},"{quoted}"\n')
    return path


@pytest.fixture(scope="module")
def site(
    models: list[Path], data: Dataset, hostile: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a server that is open to all, with 100,000 users, one version of two built."""
    store = f"lmdb://{tmp_path_factory.mktemp('store') / 'users'}?sync=off"
    with Recommender.load(models[0], store=store) as recommender:
        import_events(recommender.log, read(LOG))
        Builder(recommender).build(list(recommender.log.users()))
        fill(recommender, data)
    results = ["--results", str(RESULTS / "demo.jsonl")]
    server = start(*models, "--store", store, "--titles", str(hostile), *results)
    try:
        yield server.url
    finally:
        server.stop()


def fill(recommender: Recommender, data: Dataset) -> None:
    """Copies of the smallest users under other names."""
    store, version = recommender.store, recommender.states.version
    users = [str(user) for user in data.user_ids.tolist()]
    there = len(list(recommender.log.users()))
    small = sorted(users, key=lambda user: sum(recommender.sizes(user)[1:]))[:20]
    blobs = [
        (store.get(f"h/{user}").blob, store.get(state_key(version, user)).blob) for user in small
    ]
    puts = (
        put
        for n in range(USERS - there)
        for put in (
            Put(f"h/copy-{n}", blobs[n % len(blobs)][0]),
            Put(state_key(version, f"copy-{n}"), blobs[n % len(blobs)][1]),
        )
    )
    while part := list(islice(puts, 20_000)):
        store.put_many(part)


class Server:
    """`gistrec serve` in a process of its own."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "gistrec", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.url = re.search(r"http://\S+", line)[0]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


def start(*arguments: str | Path) -> Server:
    """A server of model folders and options."""
    given: list[str] = []
    for argument in arguments:
        given += ["--model", str(argument)] if isinstance(argument, Path) else [argument]
    return Server(given)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    assert CHROMIUM, "CI needs chromium: apt install chromium"
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Open = Callable[..., "playwright.Page"]


@pytest.fixture
def window(browser: "playwright.Browser") -> Iterator[Open]:
    """Opens addresses in windows; in the end, no console has complained."""
    contexts, complaints, urls = [], [], []

    def open_window(url: str, *, width: int = 1280, scheme: str = "light") -> "playwright.Page":
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("request", lambda request: urls.append(request.url))
        page.goto(url)
        return page

    open_window.urls = urls
    yield open_window
    for context in contexts:
        context.close()
    # the browser itself notes answers such as 401 there
    assert [c for c in complaints if not c.startswith("Failed to load resource")] == []


def look(page: "playwright.Page", user: str) -> None:
    page.get_by_label("User id").fill(user)
    page.get_by_role("button", name="Look").click()


def snap(page: "playwright.Page", name: str) -> None:
    """A picture for the documentation, if it is asked for."""
    if folder := os.environ.get("GISTREC_SCREENSHOTS"):
        page.mouse.move(0, 0)
        page.screenshot(path=Path(folder) / f"dashboard-{name}.png")


# ---- every page ----


def ready(page: "playwright.Page", name: str, data: Dataset) -> None:
    """Wait until a page shows what it is there for."""
    if name == "overview":
        expect(page.get_by_text("100,000").first).to_be_visible(timeout=60_000)
    elif name == "user":
        look(page, str(data.user_ids[0]))
        beside = page.get_by_label("Beside it")
        expect(beside.locator("option")).to_have_count(3, timeout=60_000)
        beside.select_option(index=1)
        expect(page.get_by_text("If it were encoded now")).to_be_visible()
        expect(page.get_by_role("heading", name="History")).to_be_visible()
    elif name == "budget":
        expect(page.get_by_role("button", name="Save run.toml")).to_be_visible()
    else:
        expect(page.get_by_text("100% of users built")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_is_accessible_and_fits(
    window: Open, site: str, data: Dataset, name: str, width: int, scheme: str
) -> None:
    page = window(f"{site}/#{name}", width=width, scheme=scheme)
    ready(page, name, data)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found] == []
    if name != "overview":  # whose curves need a minute of requests
        snap(page, name if width > 390 else f"{name}-phone")


def test_the_overview_follows_requests(window: Open, site: str, data: Dataset) -> None:
    page = window(f"{site}/#overview")
    ready(page, "overview", data)
    expect(page.get_by_role("status").first).to_have_text("live")
    ended = threading.Event()
    client = threading.Thread(target=ask, args=(site, data, ended))
    client.start()
    try:
        rate = page.get_by_role("heading", name=re.compile("Requests per second")).locator("strong")
        expect(rate).to_have_text(re.compile(r"^[1-9]"), timeout=15_000)
        stages = page.get_by_role("table", name=re.compile("Stages"))
        for stage in ("load", "compute", "store"):  # this recipe is read without decoding
            expect(
                stages.get_by_role("row", name=re.compile(f"^{stage} [0-9.]+ ms"))
            ).to_be_visible()
        states = page.get_by_role("table", name="How states were found")
        expect(states.get_by_role("row", name=re.compile("^hit [1-9]"))).to_be_visible()
        expect(page.get_by_role("table", name="Bytes by version").get_by_role("row")).to_have_count(
            4
        )
        if os.environ.get("GISTREC_SCREENSHOTS"):
            page.wait_for_timeout(60_000)
        snap(page, "overview")
        page.emulate_media(color_scheme="dark")
        snap(page, "overview-dark")
    finally:
        ended.set()
        client.join()


def ask(url: str, data: Dataset, ended: threading.Event) -> None:
    users = data.user_ids.tolist()
    with httpx.Client(base_url=url) as http:
        n = 0
        while not ended.wait(0.05):
            n += 1
            http.get(f"/v1/users/{users[n * n % len(users)]}/recommendations")
            if n % 8 == 0:
                event = {"item_id": int(data.items.ids[n % len(data.items)])}
                http.post(f"/v1/users/copy-{n}/events", json={"events": [event]})


SCRAPE = """
gistrec_request_seconds_bucket{le="0.01",route="GET /v1/users/{user_id}/state",status="200"} 90.0
gistrec_request_seconds_bucket{le="0.1",route="GET /v1/users/{user_id}/state",status="200"} 100.0
gistrec_request_seconds_bucket{le="+Inf",route="GET /v1/users/{user_id}/state",status="200"} 100.0
gistrec_request_seconds_count{route="GET /v1/users/{user_id}/state",status="200"} 100.0
gistrec_request_seconds_bucket{le="+Inf",route="POST /v1/batch/rank",status="429"} 7.0
gistrec_request_seconds_count{route="POST /v1/batch/rank",status="429"} 7.0
gistrec_request_seconds_count{route="GET /metrics",status="200"} 5.0
gistrec_state_loads_total{found="fresh"} 3.0
"""


def test_figures_are_those_of_the_metrics(window: Open, site: str) -> None:
    page = window(f"{site}/#models")
    found = page.evaluate(
        """async text => {
            const {between, none, parse} = await import("/pages/metrics.js");
            const now = parse(text), half = parse(text.replaceAll("100.0", "60.0"));
            const all = between(none(), now).requests;
            return [now.requests.count, now.refused, now.found, all.quantile(0.5),
                all.quantile(0.95), between(half, now).requests.count, between(now, half)];
        }""",
        SCRAPE,
    )
    count, refused, states, p50, p95, since, anew = found
    assert (count, refused, states, since, anew) == (107, 7, {"fresh": 3}, 40, None)
    assert p50 == pytest.approx(10 * 53.5 / 90)
    assert p95 == 100  # the last bucket's end: what is beyond it is not known


# ---- one user ----


def test_an_event_is_appended_and_the_list_changes(window: Open, site: str, data: Dataset) -> None:
    user = str(data.user_ids[1])
    page = window(f"{site}/#user")
    look(page, user)
    length = data.offsets[2] - data.offsets[1]
    expect(page.locator(".kept dd").first).to_have_text(f"{length:,}")
    before = page.locator(".items .name").all_inner_texts()
    page.get_by_role("button", name=re.compile("^Append .* as an event")).nth(3).click()
    expect(page.locator(".told")).to_contain_text(f"{length + 1:,} events now")
    expect(page.locator(".kept dd").first).to_have_text(f"{length + 1:,}")
    expect(page.locator(".move")).to_have_count(10)
    assert page.locator(".items .name").all_inner_texts() != before
    expect(page.locator(".timeline .dot").first).to_have_accessible_name("waiting")

    page.get_by_label("Item id").fill("no such item")
    page.get_by_role("button", name="Append event").click()
    expect(page.locator(".told.bad")).to_contain_text("whole numbers")
    assert page.url.endswith("#user")


def test_a_user_beside_other_codecs(window: Open, site: str, data: Dataset) -> None:
    page = window(f"{site}/#user")
    look(page, str(data.user_ids[2]))
    page.get_by_label("Beside it").select_option("codec")
    codecs = page.get_by_role("textbox", name="Codecs")
    codecs.fill("recent(keep=16, sink=0) | int8()")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("16 kept")).to_be_visible(timeout=20_000)
    expect(page.get_by_text(re.compile(r"\d+ of 10 the same"))).to_be_visible()
    codecs.fill("resent(keep=16)")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".told.bad")).to_contain_text("did you mean 'recent'")
    page.get_by_label("Beside it").select_option("")
    expect(page.locator(".kept")).to_have_count(1)


def test_older_events_are_shown_when_asked_for(window: Open, site: str, data: Dataset) -> None:
    lengths = (data.offsets[1:] - data.offsets[:-1]).tolist()
    user = next(n for n, length in enumerate(lengths) if length > 250)
    page = window(f"{site}/#user")
    look(page, str(data.user_ids[user]))
    events = page.locator(".timeline ol li")
    expect(events).to_have_count(100)
    page.get_by_role("button", name="Show 100 older events").click()
    expect(events).to_have_count(200)


def test_titles_with_html_are_text(window: Open, site: str, data: Dataset) -> None:
    page = window(f"{site}/#user")
    look(page, str(data.user_ids[rare(data)[0]]))
    expect(page.locator(".timeline").get_by_text(HOSTILE).first).to_be_visible()
    look(page, "<i>nobody</i>")
    expect(page.get_by_role("heading", name="No event of this user yet")).to_be_visible()
    assert page.title() == "User · gistrec"
    assert page.locator("img, b").count() == 0
    assert len(window.urls) > 10
    assert not any("nobody" in url for url in [*window.urls, page.url])


# ---- budget ----


def test_the_dials_choose_what_the_report_chooses(window: Open, site: str, tmp_path: Path) -> None:
    page = window(f"{site}/#budget")
    size = page.get_by_label(re.compile("^Bytes per user"))
    expect(size).to_be_visible()
    rows = load(RESULTS / "demo.jsonl")
    for budget in (2**7, 2**9, 2**11, 2**17):
        size.fill(str(8 * (budget.bit_length() - 1)))
        (expected,) = summary.choose(rows, budget)
        expect(page.locator(".answer .recipe")).to_have_text(expected.point.name)
    size.fill(size.get_attribute("min"))
    size.press("ArrowRight")
    page.get_by_label(re.compile("^Recommended within")).fill("0")
    expect(page.locator(".answer h2")).to_have_text(re.compile("Take|Nothing fits"))
    page.get_by_label(re.compile("^Recommended within")).press("End")

    size.fill(str(8 * 11))
    page.get_by_label("Users").fill("2000000")
    expect(page.locator(".answer h3")).to_have_text("For 2,000,000 users")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save run.toml").click()
    saving.value.save_as(tmp_path / "run.toml")
    run = tomllib.loads((tmp_path / "run.toml").read_text())
    (expected,) = summary.choose(rows, 2**11)
    assert run["codec"] == expected.point.name
    assert run["plan"]["budget_bytes"] == 2**11
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".answer [role=status]")).to_have_text("Copied.")
    assert tomllib.loads(page.evaluate("navigator.clipboard.readText()")) == run
    page.get_by_text("Run file").click()
    expect(page.get_by_role("region", name="Run file")).to_contain_text("[plan]")


# ---- versions ----


def test_a_version_is_switched_to_and_back(window: Open, site: str) -> None:
    page = window(f"{site}/#models")
    first = page.locator(".version.serving h2")
    expect(first).to_be_visible(timeout=60_000)
    before = first.inner_text()
    page.get_by_role("button", name="Serve this version").click()
    page.get_by_role("button", name="Cancel").click()
    expect(first).to_have_text(before)
    page.get_by_role("button", name="Serve this version").click()
    page.get_by_role("button", name="Serve it").click()
    expect(page.locator(".told")).to_contain_text(f"before it was {before}")
    expect(first).not_to_have_text(before)
    page.get_by_role("button", name=f"Return to {before}").click()
    expect(first).to_have_text(before)
    serving = httpx.get(f"{site}/v1/versions").json()["versions"][0]
    assert serving["version"] == before


# ---- keys, and no server ----


def test_keys_are_asked_for_and_kept_nowhere(
    window: Open, models: list[Path], tmp_path: Path
) -> None:
    reader = add_key(tmp_path / "keys.jsonl", "reader", ["read"])
    server = start(*models, "--keys", str(tmp_path / "keys.jsonl"))
    try:
        page = window(f"{server.url}/#models")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        page.get_by_label("Key", exact=True).fill("gistrec_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown or revoked")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("heading", name="This server asks for a key")).to_be_visible()
        page.get_by_role("button", name="Enter a key").click()
        page.get_by_label("Key", exact=True).fill(reader)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("button", name="Serve this version")).to_be_disabled()
        expect(page.get_by_text("it needs the scope admin")).to_be_visible()
        page.get_by_role("link", name="User").click()
        look(page, "ann")
        expect(page.get_by_role("button", name="Append event")).to_be_disabled()
        expect(page.get_by_text("it needs the scope write")).to_be_visible()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("heading", name="No user yet")).to_be_visible()
        page.get_by_role("link", name="Budget").click()
        expect(page.get_by_role("heading", name="No results at hand")).to_be_visible()
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert json.loads(kept) == [{}, {}, ""]
        assert reader not in page.content()
        page.reload()
        expect(dialog).to_be_visible()
    finally:
        server.stop()
    page.get_by_label("Key", exact=True).fill(reader)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator(".pulse")).to_contain_text("no answer since")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()


def test_a_server_that_goes_is_told_on_every_page(window: Open, models: list[Path]) -> None:
    server = start(*models)
    pages = {name: window(f"{server.url}/#{name}") for name in PAGES}
    look(pages["user"], "ann")
    expect(pages["user"].get_by_text("No event of this user yet")).to_be_visible()
    expect(pages["models"].locator(".version.serving")).to_be_visible()
    expect(pages["overview"].get_by_text("No user yet")).to_be_visible()
    expect(pages["budget"].get_by_text("No results at hand")).to_be_visible()
    server.stop()
    look(pages["user"], "bob")
    for name in ("overview", "user", "models"):
        expect(pages[name].locator(".pulse.silent")).to_be_visible(timeout=15_000)
    expect(pages["user"].locator(".told.bad")).to_have_text("the server does not answer")
    expect(pages["overview"].get_by_text("what is shown is from before")).to_be_visible()
    expect(pages["models"].locator(".told.bad")).to_be_visible(timeout=10_000)
    pages["user"].get_by_role("link", name="Budget").click()
    expect(pages["user"].get_by_text("The results can't be read")).to_be_visible()


def test_it_can_be_used_without_a_mouse(window: Open, site: str, data: Dataset) -> None:
    page = window(f"{site}/#user")
    expect(page.get_by_label("User id")).to_be_focused()
    page.keyboard.type(str(data.user_ids[3]))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")
        if re.match("Append .* as an event", name):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".told")).to_contain_text("events now")
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#user")

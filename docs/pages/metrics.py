"""`docs/metrics.md`: what `/metrics` answers, read from a server that was asked something."""

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gistrec import Model, Recommender, backbones
from gistrec.recommender import identity_recipe
from gistrec.reference_docs import MADE
from gistrec.server import create_app
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Training

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def page() -> str:
    """The text of the page."""
    lines = [
        "# Metrics",
        "",
        MADE,
        "",
        "`GET /metrics` answers these as Prometheus text; with keys it asks for one with the scope "
        "`read`. With several processes any of them answers with the sums of all. What the store "
        "holds is up to a minute old. No label names a user. [Metrics and logs]"
        "(http.md#metrics-and-logs) says more.",
        "",
        "| metric | type | labels | what |",
        "|---|---|---|---|",
    ]
    for family in text_string_to_metric_families(_scrape()):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        names = " ".join(f"`{family.name}{suffix}`" for suffix in _SUFFIXES[family.type])
        shown = " ".join(f"`{label}`" for label in sorted(labels)) or "–"
        lines.append(f"| {names} | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def _scrape() -> str:
    """The metrics of a small server after an event and a list."""
    data = stride_dataset()
    backbone = backbones.build("hstu(width=8)", num_items=data.num_items)
    model = Model(backbone, data.items, Training())
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        text = asyncio.run(_asked(create_app(recommender), int(data.items.ids[0])))
    # `_created` lines are gauges of the client library, of no use beside the processes' own
    return "\n".join(line for line in text.splitlines() if "_created" not in line) + "\n"


async def _asked(app: Starlette, item_id: int) -> str:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        events = [{"item_id": item_id, "timestamp": 5}]
        await http.post("/v1/users/ann/events", json={"events": events})
        await http.get("/v1/users/ann/recommendations")
        return (await http.get("/metrics")).text

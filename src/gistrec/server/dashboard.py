"""The dashboard: its files, and the operations that are there for it.

A user's id stands in bodies only, never in a path: nothing of a user is in a URL of the page.
"""

import functools
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.responses import Response

from gistrec.served import Served
from gistrec.server.errors import NotFoundError
from gistrec.server.keys import SCOPES
from gistrec.server.operations import Service, scored_items, timed
from gistrec.server.shown import (
    Access,
    FateRun,
    KeptOfUser,
    LookedAt,
    Past,
    PastEvent,
    Results,
    Serving,
    StoredBytes,
    Switched,
    Tried,
    VersionReport,
    Versions,
)
from gistrec.store_stats import Bytes, VersionBytes
from gistrec.views import Kept

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    # scripts and styles of this server alone, none in the page's text; no text becomes markup
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


# ---- the page ----


async def dashboard(service: Service) -> Response:
    """Show the dashboard."""
    return _file("index.html")


async def asset(service: Service, name: str) -> Response:
    """Give a script, style or picture of the dashboard."""
    if name not in _names():
        raise NotFoundError(f"the dashboard has no file {name!r}: open / for it")
    return _file(name)


def _pages() -> Traversable:
    return files("gistrec.server") / "pages"


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(entry.name for entry in _pages().iterdir())


def _file(name: str) -> Response:
    content = _pages().joinpath(name).read_bytes()
    return Response(content, headers=_HEADERS | {"Content-Type": _TYPES[name.rpartition(".")[2]]})


# ---- what it asks for ----


def access(service: Service, authorization: str | None) -> Access:
    """Say what the given key may do."""
    ring = service.settings.keys
    if ring is None:
        return Access(asks_for_keys=False, name=None, scopes=list(SCOPES))
    key = ring.known(authorization)
    return Access(asks_for_keys=True, name=key.name, scopes=key.scopes)


def versions(service: Service) -> Versions:
    """Count users and bytes of the store by version; up to a minute old."""
    recommender = service.recommender
    (found, age_s), ms = timed(service.begun.stored.get)
    here = recommender.versions
    counted = {version.version: version for version in found.versions}
    serving = recommender.served.version
    reports = [
        _version(name, counted.get(name), here.get(name), name == serving)
        for name in sorted({*counted, *here}, key=lambda name: (name != serving, name))
    ]
    return Versions(reports, _bytes(found.log), round(age_s, 1), ms)


def _version(
    name: str, counted: VersionBytes | None, served: Served | None, serving: bool
) -> VersionReport:
    states = _bytes(counted.states) if counted else StoredBytes(0, 0, 0.0, 0.0)
    if served is None:
        model, codec = (counted.model, counted.codec) if counted else ("", "")
        return VersionReport(name, model, codec, serving, False, None, None, None, None, states)
    return VersionReport(
        version=name,
        model=served.recipe.manifest.model,
        codec=served.recipe.manifest.codec,
        serving=serving,
        here=True,
        backbone=str(served.backbone.spec),
        num_items=len(served.items),
        item_id_type="integer" if served.items.ids.dtype.kind in "iu" else "string",
        shared_bytes=served.recipe.shared_bytes,
        states=states,
    )


def _bytes(found: Bytes) -> StoredBytes:
    return StoredBytes(*found)


def switch(service: Service, body: Serving) -> Switched:
    """Make a version the one that serves, in all servers of the store that were given it."""
    recommender = service.recommender
    if (served := recommender.versions.get(body.version)) is None:
        raise NotFoundError(
            f"this server was not given version {body.version}, it has "
            f"{', '.join(recommender.versions)}: start it with that --model as well"
        )
    before = recommender.served.version
    _, ms = timed(recommender.settings.switch, body.version, served.states.described)
    return Switched(body.version, before, ms)


def history(service: Service, body: LookedAt) -> Past:
    """Give a part of a user's history, with titles."""
    found, ms = timed(
        service.begun.views.history, body.user_id, newest=body.events, before=body.before
    )
    events = found.events
    actions = [None] * len(events.item_id) if events.action is None else events.action.tolist()
    columns = (events.item_id.tolist(), found.titles, events.timestamp.tolist(), actions)
    shown = [PastEvent(*event) for event in zip(*columns, strict=True)]
    return Past(found.length, found.log_bytes, found.start, shown, ms)


def look(service: Service, body: LookedAt) -> KeptOfUser:
    """Say what is kept of a user, what became of every event, and what is recommended."""
    found, ms = timed(service.begun.views.stored, body.user_id, k=body.k)
    return _kept(found, ms)


def compare(service: Service, body: Tried) -> KeptOfUser:
    """Say what another version or other codecs would keep of a user; nothing is written."""
    found, ms = timed(
        service.begun.views.tried, body.user_id, k=body.k, version=body.version, codec=body.codec
    )
    return _kept(found, ms)


def _kept(found: Kept, ms: float) -> KeptOfUser:
    fields = found._asdict() | {
        "fates": [FateRun(*run) for run in found.fates],
        "items": scored_items(found.items),
    }
    return KeptOfUser(**fields, ms=ms)


def results(service: Service) -> Results:
    """Give the rows of `gistrec bench` that the server was given or found beside its models."""
    (benches, errors), ms = timed(service.settings.results.read)
    return Results(benches, errors, ms)

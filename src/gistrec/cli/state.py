"""`gistrec state`: build, count, limit and erase what is stored about users."""

import time
from pathlib import Path
from typing import Literal

from cyclopts import App

from gistrec.cli._output import MARKDOWN, PARAMETER, Output, Table, Work
from gistrec.cli._service import Service
from gistrec.cli._settings import MIN_EVENTS, data_of
from gistrec.cli._units import num_bytes, seconds
from gistrec.errors import DataError

app = App(
    name="state",
    help="Build, count, limit and erase what is stored about users.",
    default_parameter=PARAMETER,
    **MARKDOWN,
)


@app.command
def build(
    *,
    service: Service,
    workers: int = 1,
    engine: Literal["processes", "ray"] = "processes",
    work: Work = Work(),
) -> None:
    """Build the states of all users who have a history in a store, ahead of serving a model.

    `gistrec import` brings a log into a store.
    A user whose state is there and up to the history is skipped, so a killed run can be repeated.
    States of other models stay, and servers may go on.

    Args:
        workers: How many build at once.
        engine: Whose they are: processes of this machine, or ray: of the Ray cluster that
            RAY_ADDRESS names (pip install "gistrec[ray]").
    """
    from gistrec.build import Part, build_all
    from gistrec.history_log import HistoryLog
    from gistrec.stores import open_store

    with open_store(service.store) as opened:
        total = sum(1 for _ in HistoryLog(opened).users())
    begun = time.perf_counter()
    with work.progress("users") as progress:
        bar = progress.add_task("building", total=total)

        def report(done: Part) -> None:
            progress.update(bar, completed=done.total)

        built = build_all(
            service.model, service.store, workers=workers, engine=engine, report=report
        )
    rate = built.users / (time.perf_counter() - begun)
    work.show(
        {**built._asdict(), "users_per_s": round(rate, 1)},
        f"{built.users:,} users with {built.events:,} events built in {service.shown_store} "
        f"({rate:,.0f} users/s), {built.current:,} were up to date"
        + (f", {built.damaged:,} have a damaged history" if built.damaged else "")
        + (f"; {built.unknown:,} events are of items unknown to the model" * bool(built.unknown)),
    )


@app.command
def fit(
    *, model: Path, codec: str, data: str, min_events: int = MIN_EVENTS, work: Work = Work()
) -> None:
    """Fit codecs to a model and save them in its folder; stored states are rebuilt on next use.

    Args:
        model: Model folder, as `gistrec train` writes it.
        codec: Codecs that states are to be stored with, such as "recent(keep=64) | int8()".
        data: Log or impressions that the model was trained on.
        min_events: Users with fewer events are left out; what the model was trained with.
    """
    from gistrec import codecs
    from gistrec.build import fit_recipe
    from gistrec.train import Model

    codecs.parse(codec)
    fitted = Model.load(model)
    dataset = data_of(data, min_events, work)
    with work.waiting(f"fitting {codec}"):
        recipe = fit_recipe(fitted, dataset, codec)
    recipe.save(model / "recipe")
    work.show(
        {"model": str(model), "codec": str(recipe.chain), "shared_bytes": recipe.shared_bytes},
        f"{model / 'recipe'}: {recipe.chain}, {recipe.shared_bytes:,} bytes shared by all users",
    )


@app.command
def show(user: str, /, *, service: Service, output: Output = Output()) -> None:
    """Say what is stored about a user.

    Args:
        user: User id.
    """
    with service.open() as recommender:
        found = recommender.describe(user)
    if found is None:
        raise DataError(f"nothing is stored about user {user!r} in {service.shown_store}")
    document = found._asdict()
    output.show(document, Table([[name, str(value)] for name, value in document.items()], left=2))


@app.command
def forget(user: str, /, *, service: Service, output: Output = Output()) -> None:
    """Erase a user's history and state.

    Args:
        user: User id.
    """
    with service.open() as recommender:
        erased = recommender.forget(user)
    output.show(
        {"user_id": user, "erased": erased},
        f"{user} is erased" if erased else f"nothing was stored about {user}",
    )


@app.command
def stats(*, store: str, project_users: int | None = None, work: Work = Work()) -> None:
    """Count what a store holds, by version; needs no model.

    Args:
        store: URL of the store.
        project_users: Say as well what so many users would take, if they were like those that are
            there.
    """
    from gistrec.store_stats import store_stats
    from gistrec.stores import open_store

    with open_store(store) as opened, work.progress("entries") as progress:
        bar = progress.add_task("counting", total=None)
        found = store_stats(opened, report=lambda entries: progress.advance(bar, entries))
    rows = [("history log", "", found.log)]
    rows += [(v.version + "*" * v.serving, v.codec, v.states) for v in found.versions]
    head = ["", "codec", "users", "bytes", "p50", "p99"]
    table = [head] + [
        [
            name,
            codec,
            f"{n.users:,}",
            f"{n.bytes_total:,}",
            f"{n.bytes_p50:,.0f}",
            f"{n.bytes_p99:,.0f}",
        ]
        for name, codec, n in rows
    ]
    document = {
        "log": found.log._asdict(),
        "versions": [v._asdict() | {"states": v.states._asdict()} for v in found.versions],
    }
    if project_users is not None:
        table[0].append(f"of {project_users:,} users")
        for row, (_, _, n) in zip(table[1:], rows, strict=True):
            row.append(f"{n.projected(project_users):,}")
        document["projected"] = {
            "users": project_users,
            "log_bytes": found.log.projected(project_users),
            "state_bytes": {v.version: v.states.projected(project_users) for v in found.versions},
        }
    note = ["* serves"] if any(v.serving for v in found.versions) else []
    work.show(document, Table(table, left=2, head=True), *note)


@app.command
def drop(version: str, /, *, store: str, work: Work = Work()) -> None:
    """Remove all states of a version that serves no more; histories stay.

    It can be interrupted and repeated. Stop the servers of that version first, as they would write
    new states.

    Args:
        version: As `gistrec state stats` names it; `unversioned` are those of earlier gistrecs.
        store: URL of the store.
    """
    from gistrec.stores import open_store
    from gistrec.sweep import drop as drop_states

    with open_store(store) as opened, work.progress("states") as progress:
        bar = progress.add_task("dropping", total=None)
        states, nbytes = drop_states(
            opened, version, report=lambda count: progress.advance(bar, count)
        )
    work.show(
        {"version": version, "states": states, "bytes": nbytes},
        f"{states:,} states of version {version} removed, {nbytes:,} bytes",
    )


@app.command
def switch(*, service: Service, output: Output = Output()) -> None:
    """Make a model the one that serves, in all servers of a store that were given it.

    Servers follow within a second or two. Switch back with the other model. Before, build its
    states with `gistrec state build`, or they are rebuilt one by one when users come.
    """
    with service.open() as recommender:
        version = recommender.states.version
        before = recommender.settings.switch(version, recommender.states.described)
    output.show(
        {"serving": version, "before": before},
        f"version {version} serves" + (f", before {before}" if before else ""),
    )


@app.command
def limit(
    *,
    store: str,
    state_ttl: str | None = None,
    state_budget: str | None = None,
    log_ttl: str | None = None,
    output: Output = Output(),
) -> None:
    """Show or set how long and how much a store keeps; servers follow within seconds.

    A dropped state is rebuilt from the history when its user comes back. Servers apply the limits
    every five minutes, `gistrec state sweep` at once.

    Args:
        store: URL of the store.
        state_ttl: Drop states that nobody used for so long: 30d, 12h; none: keep them.
        state_budget: Drop the states used longest ago, beyond so many bytes of all: 8g; none: no
            bound.
        log_ttl: Forget users, history and all, who had no new event for so long: 400d; none: keep
            them.
    """
    import msgspec

    from gistrec.store_settings import StoreSettings
    from gistrec.stores import open_store

    asked = {
        "state_ttl_s": state_ttl and (seconds("--state-ttl", state_ttl),),
        "state_budget_bytes": state_budget and (num_bytes("--state-budget", state_budget),),
        "log_ttl_s": log_ttl and (seconds("--log-ttl", log_ttl),),
    }
    given = {name: value[0] for name, value in asked.items() if value}
    with open_store(store) as opened:
        settings = StoreSettings(opened)
        if given:
            settings.change(lambda old: msgspec.structs.replace(old, **given))
        now = settings.read()
    document = {name: getattr(now, name) for name in asked}
    lines = [[name, "none" if value is None else f"{value:,}"] for name, value in document.items()]
    output.show(document, Table(lines))


@app.command
def sweep(*, store: str, work: Work = Work()) -> None:
    """Apply a store's limits now, and remove states whose user was forgotten.

    Args:
        store: URL of the store.
    """
    from gistrec.stores import open_store
    from gistrec.sweep import sweep as sweep_store

    with open_store(store) as opened, work.progress("entries") as progress:
        bar = progress.add_task("sweeping", total=None)
        swept = sweep_store(opened, report=lambda entries: progress.advance(bar, entries))
    work.show(
        swept._asdict(),
        f"states removed: {swept.expired:,} expired, {swept.evicted:,} beyond the budget, "
        f"{swept.orphaned:,} without a history; users forgotten: {swept.forgotten:,}; "
        f"{swept.state_bytes:,} bytes of states are left",
    )

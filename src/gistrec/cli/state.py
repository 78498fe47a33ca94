"""`gistrec state`: build, look at and erase what is stored about users."""

from pathlib import Path

from cyclopts import App
from rich.progress import MofNCompleteColumn

from gistrec.cli._output import PARAMETER, Output, Work, aligned
from gistrec.cli._service import Service
from gistrec.cli._settings import dataset_of
from gistrec.errors import DataError

app = App(
    name="state",
    help="Build, look at and erase what is stored about users.",
    default_parameter=PARAMETER,
)


@app.command
def build(*, service: Service, data: str, work: Work = Work()) -> None:
    """Bring a log into a store: every user's history and state.

    Users who are in the store already keep their history, so a killed run can be repeated.

    Args:
        data: Log: a file, a MovieLens folder, or a spec such as "csv(path='log.csv', user='uid')".
    """
    from gistrec.build import build_states

    dataset = dataset_of(data, min_events=1)
    with service.open() as recommender, work.progress(MofNCompleteColumn()) as progress:
        bar = progress.add_task("users", total=dataset.num_users)
        built = build_states(
            recommender, dataset, report=lambda done: progress.update(bar, completed=done)
        )
    work.show(
        built._asdict(),
        f"{built.users:,} users with {built.events:,} events stored in {service.shown_store}, "
        f"{built.kept:,} were there already",
    )


@app.command
def fit(*, model: Path, codec: str, data: str, min_events: int = 5, work: Work = Work()) -> None:
    """Fit codecs to a model and save them in its folder; stored states are rebuilt on next use.

    Args:
        model: Model folder, as `gistrec train` writes it.
        codec: Codecs that states are to be stored with, such as "recent(keep=64) | int8()".
        data: Log that the model was trained on.
        min_events: Users with fewer events are left out; what the model was trained with.
    """
    from gistrec import codecs
    from gistrec.build import fit_recipe
    from gistrec.train import Model

    codecs.parse(codec)
    fitted = Model.load(model)
    dataset = dataset_of(data, min_events)
    work.note(f"fitting {codec}")
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
    output.show(document, aligned([[name, str(value)] for name, value in document.items()], left=2))


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
def stats(*, service: Service, output: Output = Output()) -> None:
    """Count the users and bytes of a store's states."""
    with service.open() as recommender:
        found = recommender.stats()
    output.show(
        found._asdict(),
        f"{found.users:,} users, {found.bytes_total:,} bytes of states: "
        f"p50 {found.bytes_p50:,.0f}, p99 {found.bytes_p99:,.0f}",
    )

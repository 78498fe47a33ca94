"""`gistrec vectors`: what items and users are scored by, into files."""

from pathlib import Path

from gistrec.cli._output import Work


def vectors(
    *, model: Path, out: Path, store: str | None = None, at: int | None = None, work: Work = Work()
) -> None:
    """Write item vectors, and those of a store's users, as Parquet.

    `items.parquet` has item_id, title, bias and vector; `users.parquet` user_id and vector. A score
    is the product of both vectors and the bias; with `repeats`, that of items which are new to the
    user. Users without an event of a known item have no vector.

    Args:
        model: Model folder, as `gistrec train` writes it.
        out: Folder for the files; made if it does not exist.
        store: URL of the store with the users' histories; without it, items only.
        at: Time of the request, Unix seconds; right after each user's newest event if not given.
    """
    from gistrec.recommender import Recommender
    from gistrec.train import Model
    from gistrec.vectors import export_items, export_users

    if store is None:
        items, users = export_items(Model.load(model), out), None
    else:
        with (
            Recommender.load(model, store=store) as recommender,
            work.progress("users") as progress,
        ):
            items = export_items(recommender.model, out)
            bar = progress.add_task("vectors", total=sum(1 for _ in recommender.log.users()))
            users = export_users(
                recommender, out, at=at, report=lambda done: progress.update(bar, completed=done)
            )
    work.show(
        {"vectors": str(out), "items": items, "users": users},
        f"{out}: vectors of {items:,} items" + ("" if users is None else f" and {users:,} users"),
    )

"""`gistrec export`: a store's histories into a file."""

from pathlib import Path

from gistrec.cli._output import Work


def export(*, store: str, out: Path, text_users: bool = False, work: Work = Work()) -> None:
    """Write the histories of all users of a store as Parquet, without a model.

    The columns are user_id, item_id, timestamp and, if an event has one, action. User ids are
    numbers if every one is written as a whole number. `gistrec import` takes the file; actions only
    if they are named: "parquet(path='log.parquet', action='action')".

    Args:
        store: URL of the store: lmdb:///absolute/folder, lmdb://relative/folder or
            redis://host:6379/0.
        out: The Parquet file; replaced as a whole if it exists.
        text_users: Leave user ids text, even if all are whole numbers.
    """
    from gistrec.history_log import HistoryLog
    from gistrec.stores import open_store
    from gistrec.transfer import export_events

    with open_store(store) as opened, work.progress("events") as progress:
        bar = progress.add_task("exporting", total=None)
        found = export_events(
            HistoryLog(opened),
            out,
            text_users=text_users,
            report=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    work.show(
        {"data": str(out)} | found._asdict(),
        f"{out}: {found.events:,} events of {found.users:,} users"
        + f", import it as \"parquet(path='{out}', action='action')\"" * found.actions,
    )

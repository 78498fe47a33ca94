"""`gistrec import`: a log into a store."""

import time

from gistrec.cli._output import Work
from gistrec.errors import ConfigError


def import_(data: str, /, *, store: str, work: Work = Work()) -> int:
    """Bring a log into a store: every user's history, without states and without a model.

    Killed and run again, it goes on where it was and logs nothing twice. A user who is in the store
    already gets the events that are missing there. If the store has other events of that time or
    later ones, the user is left as is and counted, and the exit code is 1. States are built on
    first use, or ahead by `gistrec state build`.

    Args:
        data: Log: a file, a MovieLens folder, or a spec such as
            "parquet(path='log.parquet', action='action')"; actions are read only if named. Or
            impressions, such as "labelled(path='log.parquet', label='is_click')", of which the
            histories are taken, with their labels as actions.
        store: URL of the store: lmdb:///absolute/folder, lmdb://relative/folder or
            redis://host:6379/0.
    """
    from gistrec import impressions
    from gistrec.events import read
    from gistrec.history_log import HistoryLog
    from gistrec.stores import open_store, without_password
    from gistrec.transfer import import_events

    if store.startswith("ram:"):
        raise ConfigError("ram:// forgets everything at the end: give lmdb://folder or redis://")
    with open_store(store) as opened:
        with work.waiting(f"reading {data}"):
            shown = impressions.read(data) if impressions.is_source(data) else None
            events = read(data) if shown is None else shown.events
        begun = time.perf_counter()
        with work.progress("events") as progress:
            bar = progress.add_task("importing", total=len(events))

            def report(done: int, total: int) -> None:
                progress.update(bar, completed=done, total=total)

            found = import_events(HistoryLog(opened), events, report=report)
        seconds = time.perf_counter() - begun
    per_second = len(events) / seconds
    text = (
        f"{found.events:,} events of {found.users:,} users added to {without_password(store)} "
        f"({per_second:,.0f} events/s), {found.kept:,} were there already"
    )
    if found.differing_users:
        text += (
            f"\n{found.differing_users:,} users were left as they are, such as "
            f"{', '.join(map(repr, found.examples))}: the store has other events of that time or "
            "later ones; forget them (gistrec state forget) to take the file's"
        )
    document = found._asdict() | {"seconds": seconds, "events_per_second": per_second}
    work.show(document, text)
    return int(found.differing_users > 0)

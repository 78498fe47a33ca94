"""`gistrec doctor`: what is wrong, and what to do."""

import dataclasses
from pathlib import Path

from gistrec.cli._output import Table, Work

_STYLES = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "bold red"}


def doctor(
    *,
    store: str | None = None,
    model: Path | None = None,
    data: str | None = None,
    work: Work = Work(),
) -> int:
    """Find what is wrong with this installation, a store, a model or a log, and say what to do.

    The exit code is 1 if something needed is broken. With a store and a model, the states that the
    model has there are looked at as well; with a log and a model, whether it knows the items.

    Args:
        store: URL of a store; a key of its own is written and removed, nothing else is changed.
        model: Model folder, as `gistrec train` writes it.
        data: Log: a file, a folder, or a spec such as "csv(path='log.csv', user='uid')".
    """
    from gistrec import doctor as doctors

    with work.waiting("looking"):
        checks, version = doctors.check(), None
        if model is not None:
            of_model, version = doctors.check_model(model)
            checks += of_model
        if store is not None:
            checks += doctors.check_store(store, version)
        if data is not None:
            checks += doctors.check_log(data, version[0].items if version else None)
    document = {"checks": [dataclasses.asdict(c) for c in checks]}
    rows = [[c.status, c.name, c.detail] for c in checks]
    work.show(document, Table(rows, left=3, styles=_STYLES))
    return int(any(c.status == "broken" for c in checks))

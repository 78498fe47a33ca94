"""Whether a log can be read, and what in it is seldom meant so.

Shapes: R events, U users.
"""

import time

import numpy as np

from gistrec.dataset import Vocabulary
from gistrec.doctor._check import Check, attempt
from gistrec.events import Events, read, source_of

FEWEST_EVENTS = 5
"""Users with fewer are left out, unless min_events says otherwise."""
_DAY_S = 86_400
_EARLIEST = 631_152_000
"""1990; earlier times are mostly in another unit."""


def check_log(spec: str, items: Vocabulary | None = None) -> list[Check]:
    """Look at a log, and at which of its items a model knows."""
    found: list[Events] = []

    def read_it() -> str:
        found.append(read(spec))
        return f"{len(found[0]):,} events"

    checks = [attempt("log", read_it)]
    if found:
        (events,) = found
        checks.append(attempt("order of rows", lambda: _order(spec)))
        checks.append(attempt("times", lambda: _times(events)))
        checks.append(attempt("duplicates", lambda: _duplicates(events)))
        checks.append(attempt("histories of the log", lambda: _lengths(events)))
        if items is not None:
            checks.append(attempt("items of the log", lambda: _items(events, items)))
    return checks


def _order(spec: str) -> str | Check:
    rows = source_of(spec).rows_out_of_order()
    if rows:
        told = (
            f"{rows:,} rows are earlier than the user's row before: they are sorted when read, and "
            "events of one time keep the file's order; sort the file if that order is not meant"
        )
        return Check("order of rows", "warning", told)
    return "no row is earlier than its user's row before" if rows == 0 else "made in order"


def _times(events: Events) -> str | Check:
    time_R = events.timestamp
    first, last = int(time_R.min()), int(time_R.max())
    shown = f"{_date(first)} to {_date(last)}"
    if first == last:
        told = f"all events are of {_date(first)}: the column is no time, or not the events'"
        return Check("times", "broken", f"{told}; name another with time=")
    late = int((time_R > time.time() + _DAY_S).sum())
    early = int((time_R < _EARLIEST).sum())
    if late or early:
        told = f"{early:,} events before 1990 and {late:,} in the future ({shown}): say time_unit="
        return Check("times", "warning", f"{told}'ms' or 'us' if they are not in seconds")
    same_user = events.user_id[1:] == events.user_id[:-1]
    tied = float((same_user & (time_R[1:] == time_R[:-1])).sum() / max(same_user.sum(), 1))
    if tied > 0.5:
        told = f"{tied:.0%} of events have the time of the one before: are these baskets? then "
        told += "train with --scheme last_basket, and read with shuffle_ties=True"
        return Check("times", "warning", f"{told}; else find finer times")
    return shown


def _duplicates(events: Events) -> str | Check:
    _, item_R = np.unique(events.item_id, return_inverse=True)
    _, user_R = np.unique(events.user_id, return_inverse=True)
    order = np.lexsort((item_R, events.timestamp, user_R))
    same = np.ones(len(order) - 1, bool)
    for column_R in (user_R, events.timestamp, item_R):
        same &= column_R[order][1:] == column_R[order][:-1]
    if same.any():
        told = f"{int(same.sum()):,} events are there twice (user, item and time): "
        told += "remove them, unless something can happen twice in a second"
        return Check("duplicates", "warning", told)
    return "none"


def _lengths(events: Events) -> str | Check:
    _, count_U = np.unique(events.user_id, return_counts=True)
    short = int((count_U < FEWEST_EVENTS).sum())
    told = f"{len(count_U):,} users, {np.median(count_U):,.0f} events in the middle, "
    told += f"{count_U.max():,} at most"
    if short == len(count_U):
        return Check(
            "histories of the log",
            "broken",
            f"{told}: none has {FEWEST_EVENTS} events, so nothing is left to train on; give a "
            "longer log, or --min-events 3",
        )
    if short > len(count_U) / 2:
        told += f"; {short:,} have fewer than {FEWEST_EVENTS} and are left out of training"
        return Check("histories of the log", "warning", f"{told}: --min-events says how many")
    return told


def _items(events: Events, items: Vocabulary) -> str | Check:
    known_R = items.indices(events.item_id) >= 0
    share = float(known_R.mean())
    if not share:
        kinds = [
            "text" if ids.dtype == object else "numbers" for ids in (events.item_id, items.ids)
        ]
        told = f"the model knows none of them (ids: {kinds[0]} in the log, {kinds[1]} in the model)"
        return Check("items of the log", "broken", f"{told}: train it on this log")
    told = f"the model knows those of {share:.1%} of events"
    if share < 0.9:
        return Check("items of the log", "warning", f"{told}: train it anew to learn the others")
    return told


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))

"""The operations of users and of the service: what each one does, takes and gives."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from gistrec import batch_requests
from gistrec.cascade import Cascade
from gistrec.errors import DataError
from gistrec.recommender import Event, Recommender, Scored, Told
from gistrec.server import logs
from gistrec.server.errors import NotFoundError, NotReadyError, SchemaError, detail
from gistrec.server.gate import Gate
from gistrec.server.metrics import Fresh, Metrics
from gistrec.server.schema import (
    MAX_PAIRS,
    Appended,
    Candidate,
    Candidates,
    Cascaded,
    CascadeQuery,
    CascadeStage,
    ErrorDetail,
    Forgotten,
    Health,
    Kept,
    ManyAppended,
    ManyCandidates,
    ManyEvents,
    ManyRanked,
    NewEvents,
    Ranked,
    Recommended,
    RecommendQuery,
    ScoredItem,
    StateReport,
    Stats,
    UserAppended,
    UserEvents,
    UserRanked,
)
from gistrec.server.settings import Settings
from gistrec.store_stats import StoreStats, store_stats
from gistrec.views import Views

P = ParamSpec("P")
T = TypeVar("T")


def timed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """A call's result and its milliseconds."""
    started = time.perf_counter()
    result = call(*args, **kwargs)
    return result, round((time.perf_counter() - started) * 1e3, 3)


def scored_items(scored: Sequence[Scored]) -> list[ScoredItem]:
    """Items as they are answered."""
    return [
        ScoredItem(
            s.item_id, s.score, s.title, None if s.labels is None else dict(s.labels), s.known
        )
        for s in scored
    ]


def _unknown_user(user_id: str) -> NotFoundError:
    return NotFoundError(f"unknown user {user_id!r}: POST events of the user first")


def _events(body: NewEvents | UserEvents) -> list[Event]:
    now = int(time.time())
    if body.expected_length is not None and any(e.timestamp is None for e in body.events):
        raise DataError(
            "expected_length is given, but an event has no timestamp: give all of them, so "
            "that a repeated request is equal to the first"
        )
    return [
        Event(e.item_id, now if e.timestamp is None else e.timestamp, e.action, e.event_id)
        for e in body.events
    ]


def _asked(
    item_ids: list[int | str] | None,
    candidates: list[Candidate] | None,
    context: dict[str, str | int | float],
    *,
    where: str = "$",
) -> tuple[list[int | str], dict[str, Told]] | None:
    """Candidates, and what `rank` is told of them if it is; None if there are none."""
    if item_ids is not None and candidates is not None:
        raise SchemaError(f"wrong request: item_ids and candidates at `{where}`: give either")
    if candidates is None:
        if item_ids is None:
            return None
        return item_ids, {"told": Told(context)} if context else {}
    contexts, features = (
        [getattr(c, what) for c in candidates] for what in ("context", "features")
    )
    told = Told(context, contexts if any(contexts) else (), features if any(features) else ())
    return [c.item_id for c in candidates], {"told": told} if any(told) else {}


def _told(error: Exception) -> ErrorDetail:
    """An error inside an answer."""
    told = detail(error)
    if told.status >= 500:
        logs.failure(error)
    return told


class Begun(NamedTuple):
    """What a service answers from."""

    recommender: Recommender
    views: Views
    """Of single users."""
    stored: Fresh[StoreStats]
    """What the store holds."""
    cascade: Cascade | None
    """The rankers behind the model, if there are."""


class Service:
    """The operations on one recommender. A signature is a schema, a docstring a summary.

    Plain methods call the recommender and run in worker threads; `async` ones answer at once,
    however busy the workers are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metered = Metrics()
        self.gate = Gate(settings)
        self.ending = False
        """Whether /readyz says no because the server is about to end."""
        self._begun: Begun | None = None

    def begin(self, recommender: Recommender) -> None:
        """Answer for a recommender from now on."""
        later = self.gate.aside.submit
        self.metered.watch(recommender, later)
        recommender.rebuilds.on_wait = self.gate.step_aside
        counted = Fresh(lambda: store_stats(recommender.store), later)
        rankers = self.settings.rankers
        cascade = Cascade.behind(recommender, rankers) if rankers else None
        self._begun = Begun(recommender, Views(recommender), counted, cascade)

    @property
    def begun(self) -> "Begun":
        """What there is as soon as the model is loaded.

        Raises:
            NotReadyError: the model is being loaded.
        """
        if self._begun is None:
            raise NotReadyError("the model is being loaded: try again when /readyz says ok")
        return self._begun

    @property
    def recommender(self) -> Recommender:
        """Who answers.

        Raises:
            NotReadyError: the model is being loaded.
        """
        return self.begun.recommender

    def observe(self, user_id: str, body: NewEvents) -> Appended:
        """Append events to a user's history; with event ids or the expected length, only once."""
        events = _events(body)
        expected = body.expected_length
        done, ms = timed(self.recommender.observe, user_id, events, expected_length=expected)
        return Appended(done.length, done.state_bytes, done.log_bytes, ms)

    def observe_many(self, body: ManyEvents) -> ManyAppended:
        """Append events to the histories of several users; each gets an answer or an error."""
        users = [user.user_id for user in body.users]
        if len(set(users)) < len(users):
            twice = next(user for user in users if users.count(user) > 1)
            raise DataError(f"user {twice!r} is named twice: put a user's events into one entry")
        requests = [
            batch_requests.NewEvents(user.user_id, _events(user), user.expected_length)
            for user in body.users
        ]
        done, ms = timed(
            batch_requests.observe_many, self.recommender, requests, self.gate.appending
        )
        answers = [
            UserAppended(user, error=_told(one))
            if isinstance(one, Exception)
            else UserAppended(user, Kept(*one))
            for user, one in zip(users, done, strict=True)
        ]
        return ManyAppended(answers, ms)

    def recommend(self, user_id: str, query: RecommendQuery) -> Recommended:
        """Recommend items of the whole catalogue; a user without history gets an answer too."""
        scored, ms = timed(
            self.recommender.recommend,
            user_id,
            k=query.k,
            exclude_seen=query.exclude_seen,
            at=query.at,
        )
        _, state_bytes, log_bytes = self.recommender.sizes(user_id)
        return Recommended(scored_items(scored), state_bytes, log_bytes, ms)

    def rank(self, user_id: str, body: Candidates) -> Ranked:
        """Put candidate items in order for a user."""
        found = _asked(body.item_ids, body.candidates, body.context)
        if found is None:
            raise SchemaError("wrong request: no item_ids and no candidates at `$`: give either")
        item_ids, told = found
        scored, ms = timed(self.recommender.rank, user_id, item_ids, at=body.at, **told)
        return Ranked(scored_items(scored), ms)

    def cascade(self, user_id: str, body: CascadeQuery) -> Cascaded:
        """Recommend through all stages: retrieve, pre-rank, rank; with the time of each."""
        if (cascade := self.begun.cascade) is None:
            raise NotFoundError(
                "this server has no rankers behind its model: start it with --then FOLDER=COUNT"
            )
        found, ms = timed(
            cascade.recommend,
            user_id,
            k=body.k,
            exclude_seen=body.exclude_seen,
            at=body.at,
            context=body.context,
        )
        stages = [CascadeStage(s.model, s.candidates, round(s.ms, 3)) for s in found.stages]
        return Cascaded(scored_items(found.items), stages, ms)

    def rank_many(self, body: ManyCandidates) -> ManyRanked:
        """Put candidate items in order for several users; each gets an answer or an error."""
        requests = []
        for n, user in enumerate(body.users):
            context = {**body.context, **user.context}
            own = _asked(user.item_ids, user.candidates, context, where=f"$.users[{n}]")
            found = own or _asked(body.item_ids, body.candidates, context)
            if found is None:
                raise SchemaError(
                    f"wrong request: no item_ids for all and none at `$.users[{n}]`: give either"
                )
            item_ids, told = found
            requests.append(batch_requests.Candidates(user.user_id, item_ids, user.at, **told))
        if (pairs := sum(len(r.item_ids) for r in requests)) > MAX_PAIRS:
            raise SchemaError(
                f"wrong request: {pairs} candidates of {len(requests)} users, allowed are "
                f"{MAX_PAIRS} together: send several requests"
            )
        done, ms = timed(batch_requests.rank_many, self.recommender, requests)
        answers = [
            UserRanked(request.user_id, error=_told(one))
            if isinstance(one, Exception)
            else UserRanked(request.user_id, scored_items(one))
            for request, one in zip(requests, done, strict=True)
        ]
        return ManyRanked(answers, ms)

    def describe(self, user_id: str) -> StateReport:
        """Say what is kept about a user."""
        report, ms = timed(self.recommender.describe, user_id)
        if report is None:
            raise _unknown_user(user_id)
        return StateReport(**report._asdict(), ms=ms)

    def drop_state(self, user_id: str) -> Forgotten:
        """Delete a user's state; the history stays, and the next request builds the state anew."""
        found, ms = timed(self.recommender.states.forget, user_id)
        if not found:
            raise NotFoundError(f"no state of user {user_id!r} is stored: nothing is to be deleted")
        return Forgotten(user_id, ms)

    def forget(self, user_id: str) -> Forgotten:
        """Erase a user: history, state, ids of events; nothing of the user is left in the store."""
        found, ms = timed(self.recommender.forget, user_id)
        if not found:
            raise _unknown_user(user_id)
        return Forgotten(user_id, ms)

    def stats(self) -> Stats:
        """Name the model and its recipe, count users and bytes."""
        recommender = self.recommender
        found, ms = timed(recommender.stats)
        return Stats(
            backbone=str(recommender.backbone.spec),
            model=recommender.recipe.manifest.model,
            codec=str(recommender.recipe.chain),
            num_items=len(recommender.items),
            labels=list(recommender.model.labels),
            contexts=list(recommender.model.contexts),
            item_id_type="integer" if recommender.items.ids.dtype.kind in "iu" else "string",
            users=found.users,
            bytes_total=found.bytes_total,
            bytes_p50=found.bytes_p50,
            bytes_p99=found.bytes_p99,
            shared_bytes=recommender.recipe.shared_bytes,
            ms=ms,
        )

    async def healthz(self) -> Health:
        """Answer while the process is alive."""
        return Health("ok")

    def readyz(self) -> Health:
        """Answer while requests should come here: model loaded, store there, no end in sight."""
        if self.ending:
            raise NotReadyError("this server is about to end: ask another one")
        self.recommender.sizes("readyz")  # any user: only that the store answers counts
        return Health("ok")

    def metrics(self) -> bytes:
        """Give the metrics as Prometheus text."""
        return self.metered.text()

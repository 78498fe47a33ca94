"""What the dashboard's routes accept and answer, beside `schema`."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from gistrec.fates import Fate
from gistrec.server.keys import Scope
from gistrec.server.schema import (
    ErrorDetail,
    Input,
    ItemId,
    LogBytes,
    Milliseconds,
    ScoredItem,
    StateBytes,
    UserId,
)

MAX_SHOWN = 500

Place = Annotated[int, Meta(ge=0)]
VersionName = Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
Spec = Annotated[str, Meta(min_length=1, max_length=1000)]


class Access(Struct, frozen=True):
    """What the request's key may do."""

    asks_for_keys: Annotated[bool, Meta(description="False: anybody may do everything.")]
    name: Annotated[str | None, Meta(description="Of the key.")]
    scopes: list[Scope]


class StoredBytes(Struct, frozen=True):
    """What some users take; keys and the engine's own overhead are not counted."""

    users: int
    bytes_total: int
    bytes_p50: float
    bytes_p99: float


class VersionReport(Struct, frozen=True):
    """A model with its recipe, and the states that the store has of it."""

    version: str
    model: Annotated[str, Meta(description="Fingerprint of the model.")]
    codec: Annotated[str, Meta(description="Spec of the codecs.")]
    serving: Annotated[bool, Meta(description="Whether this server answers with it.")]
    here: Annotated[bool, Meta(description="Whether this server was given it.")]
    backbone: Annotated[str | None, Meta(description="Spec of the backbone; null if not here.")]
    num_items: Annotated[int | None, Meta(description="Items it knows; null if not here.")]
    item_id_type: Annotated[
        Literal["integer", "string"] | None,
        Meta(description="JSON type of their ids; null if not here."),
    ]
    shared_bytes: Annotated[
        int | None, Meta(description="Of the tables that all users share; null if not here.")
    ]
    states: Annotated[StoredBytes, Meta(description="Its states.")]


class Versions(Struct, frozen=True):
    """What the store holds, by version."""

    versions: list[VersionReport]
    log: Annotated[StoredBytes, Meta(description="The histories.")]
    age_s: Annotated[float, Meta(description="Seconds since users and bytes were counted.")]
    ms: Milliseconds


class Serving(Input, frozen=True):
    """The version that shall serve."""

    version: VersionName


class Switched(Struct, frozen=True):
    """Which version serves now."""

    serving: str
    before: Annotated[str, Meta(description="Which one did; empty: none was named.")]
    ms: Milliseconds


class LookedAt(Input, frozen=True):
    """A user to look at."""

    user_id: UserId
    k: Annotated[int, Meta(ge=1, le=100, description="Length of the list.")] = 10
    events: Annotated[
        int, Meta(ge=0, le=MAX_SHOWN, description="How many events of the history.")
    ] = 100
    before: Annotated[
        Place | None,
        Meta(description="Those before this place in the history; null: the newest."),
    ] = None


class Tried(Input, frozen=True):
    """A user whose history is to be encoded in another way."""

    user_id: UserId
    k: Annotated[int, Meta(ge=1, le=100, description="Length of the list.")] = 10
    version: Annotated[
        VersionName | None, Meta(description="With this version; null: the one that serves.")
    ] = None
    codec: Annotated[
        Spec | None,
        Meta(
            description="With these codecs; null: the version's own. They are fitted to the "
            "histories of 32 users of the store, which takes a while the first time."
        ),
    ] = None


class PastEvent(Struct, frozen=True):
    """An event of a history."""

    item_id: ItemId
    title: Annotated[str, Meta(description="Its name, or its id where no name is known.")]
    timestamp: Annotated[int, Meta(description="Unix seconds.")]
    action: int | None


class Past(Struct, frozen=True):
    """A part of a user's history."""

    length: Annotated[int, Meta(description="Events of the whole history.")]
    log_bytes: LogBytes
    start: Annotated[int, Meta(description="Place of the first event of the part.")]
    events: Annotated[list[PastEvent], Meta(description="Oldest first.")]
    ms: Milliseconds


class FateRun(Struct, frozen=True):
    """Neighbouring events of one fate."""

    fate: Annotated[
        Fate,
        Meta(
            description="`kept`: has a slot of its own. `merged`: a codec joined it with a later "
            "event. `forgotten`: a codec dropped it. `summed`: the model's own memory has no slot "
            "for it. `waiting`: the newest one, held as it is. `unknown`: the model does not know "
            "the item."
        ),
    ]
    events: int


class KeptOfUser(Struct, frozen=True):
    """What a recipe keeps of a user, and what is recommended from it."""

    version: str
    backbone: Annotated[str, Meta(description="Spec of the backbone.")]
    codec: Annotated[str, Meta(description="Spec of the codecs.")]
    stored: Annotated[bool, Meta(description="Whether the store holds this.")]
    slots: Annotated[int, Meta(description="Slots that the state holds.")]
    state_bytes: StateBytes
    parts: Annotated[dict[str, int], Meta(description="Bytes by kind, before any byte codec.")]
    fates: Annotated[list[FateRun], Meta(description="What became of every event, oldest first.")]
    items: Annotated[list[ScoredItem], Meta(description="Best first.")]
    ms: Milliseconds


class Measured(Struct, frozen=True):
    """A recipe at a budget, or a reference, as it was measured; null where it was not."""

    kind: Annotated[str, Meta(description="`recipe`, `identity`, `recompute` or `baseline`.")]
    name: Annotated[str, Meta(description="The codecs with their settings, or what it is.")]
    recipe: Annotated[str, Meta(description="The codecs as asked for.")]
    budget_bytes: int | None
    state_bytes: Annotated[float, Meta(description="Of a user's state, mean.")]
    state_bytes_p99: float | None
    log_bytes: Annotated[float, Meta(description="Of a user's history, mean.")]
    shared_bytes: Annotated[float | None, Meta(description="Of tables that all users share.")]
    ndcg_10: Annotated[float, Meta(description="As a server sees it: with the online drift.")]
    interval: Annotated[list[float], Meta(description="95 %, of the offline figure.")]
    kept: Annotated[float | None, Meta(description="Share of the uncompressed model's.")]
    append_ms_p99: float | None
    recommend_ms_p50: float | None
    recommend_ms_p99: float | None
    on_frontier: Annotated[bool, Meta(description="No other beats it in bytes and accuracy.")]


class BenchReport(Struct, frozen=True):
    """All that was measured of one model on one log."""

    file: str
    data: str
    split: str
    backbone: str
    measured: Annotated[str, Meta(description="Users, rules, machine, commit and date.")]
    points: Annotated[list[Measured], Meta(description="By bytes.")]
    run: Annotated[
        dict[str, Any],
        Meta(
            description="What a run file says beside the codec: that of the model's training, if "
            "this server has the model, else what the rows know."
        ),
    ]


class Results(Struct, frozen=True):
    """What the server's result files hold."""

    benches: list[BenchReport]
    errors: Annotated[list[ErrorDetail], Meta(description="Of files that can't be read.")]
    ms: Milliseconds

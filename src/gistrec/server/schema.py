"""What the server accepts and answers. Validation and the OpenAPI document are made from these."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from gistrec.event_ids import MAX_ID_BYTES

MAX_EVENTS = 1000
MAX_CANDIDATES = 10_000
MAX_K = 1000
MAX_USERS = 256
MAX_PAIRS = 100_000
"""Users times candidates of one call: an answer of some megabytes."""

ItemId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str
Action = Annotated[int, Meta(ge=0, le=255)]
# until the year 9999, so that milliseconds given for seconds are refused
EventId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Timestamp = Annotated[int, Meta(ge=0, le=253_402_300_799)]
EventList = Annotated[list["NewEvent"], Meta(min_length=1, max_length=MAX_EVENTS)]
ItemList = Annotated[list[ItemId], Meta(min_length=1, max_length=MAX_CANDIDATES)]
ExpectedLength = Annotated[
    Annotated[int, Meta(ge=0)] | None,
    Meta(
        description="Append only if the history has this many events, or these very ones behind "
        "that many already; needs timestamps."
    ),
]
# U+FFFD is what bytes that are not UTF-8 are decoded to: in a path such a user can't be named
UserId = Annotated[
    str, Meta(min_length=1, pattern="^[^\ufffd]+$", description="1 to 256 bytes in UTF-8.")
]
At = Annotated[
    Timestamp | None,
    Meta(description="Time of the request, Unix seconds; null: the time of the newest event."),
]
Length = Annotated[int, Meta(description="Events in the user's history.")]
StateBytes = Annotated[int, Meta(description="Stored bytes of the user's state.")]
LogBytes = Annotated[int, Meta(description="Stored bytes of the user's history log.")]
Milliseconds = Annotated[float, Meta(description="Compute time of the recommender's call.")]


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all that is accepted: a misspelt field is an error."""


class NewEvent(Input, frozen=True):
    """One interaction."""

    item_id: ItemId
    timestamp: Annotated[Timestamp | None, Meta(description="Unix seconds; null: now.")] = None
    action: Annotated[Action | None, Meta(description="What the user did, in your code.")] = None
    event_id: Annotated[
        EventId | None,
        Meta(description="Yours; an event that comes again is known by it and not appended again."),
    ] = None


class NewEvents(Input, frozen=True):
    """Events to append, oldest first; those older than the history's newest keep their times."""

    events: EventList
    expected_length: ExpectedLength = None


class UserEvents(Input, frozen=True):
    """Events to append to one of the users, as above."""

    user_id: UserId
    events: EventList
    expected_length: ExpectedLength = None


class ManyEvents(Input, frozen=True):
    """Events of several users, each named once."""

    users: Annotated[list[UserEvents], Meta(min_length=1, max_length=MAX_USERS)]


Facts = Annotated[
    dict[str, str | int | float],
    Meta(max_length=64, description="Columns by name, with values as in the training data."),
]
Context = Annotated[
    Facts, Meta(description="Context columns of the request, by name; of rankers alone.")
]


class Candidate(Input, frozen=True):
    """An item and what is known of it; of rankers alone."""

    item_id: ItemId
    context: Annotated[Facts, Meta(description="Its own, before the request's.")] = {}
    features: Annotated[
        Facts,
        Meta(
            description="Features of an item that the model does not know (`stats` counts those "
            "that it knows); others have those of the training. `Drama|War` is two values."
        ),
    ] = {}


CandidateList = Annotated[list[Candidate], Meta(min_length=1, max_length=MAX_CANDIDATES)]


class Candidates(Input, frozen=True):
    """Items to put in order for a user: `item_ids`, or `candidates` that tell more."""

    item_ids: ItemList | None = None
    candidates: CandidateList | None = None
    context: Context = {}
    at: At = None


class UserCandidates(Input, frozen=True):
    """A user for whom items are to be put in order."""

    user_id: UserId
    item_ids: Annotated[ItemList | None, Meta(description="null: those of all.")] = None
    candidates: Annotated[CandidateList | None, Meta(description="Instead, telling more.")] = None
    context: Annotated[Facts, Meta(description="The user's own, before that of all.")] = {}
    at: At = None


class ManyCandidates(Input, frozen=True):
    """Items to put in order for several users: at most 100,000, counted for each user."""

    users: Annotated[list[UserCandidates], Meta(min_length=1, max_length=MAX_USERS)]
    item_ids: Annotated[
        ItemList | None, Meta(description="For users who have none of their own.")
    ] = None
    candidates: Annotated[CandidateList | None, Meta(description="Instead, telling more.")] = None
    context: Context = {}


class RecommendQuery(Input, frozen=True):
    """What to recommend."""

    k: Annotated[int, Meta(ge=1, le=MAX_K, description="Length of the list.")] = 10
    exclude_seen: Annotated[
        bool | None,
        Meta(description="Leave out items of the user's history; null: as the model was trained."),
    ] = None
    at: At = None


class CascadeQuery(Input, frozen=True):
    """What to recommend through all stages."""

    k: Annotated[int, Meta(ge=1, le=MAX_K, description="Length of the list.")] = 10
    exclude_seen: Annotated[
        bool | None,
        Meta(description="Leave out items of the user's history; null: as the model was trained."),
    ] = None
    at: At = None
    context: Context = {}


class Kept(Struct, frozen=True):
    """What is kept about the user after the append."""

    length: Length
    state_bytes: StateBytes
    log_bytes: LogBytes


class Appended(Kept, frozen=True):
    """What is kept about the user after the append."""

    ms: Milliseconds


class ScoredItem(Struct, frozen=True, omit_defaults=True):
    """An item and its score; scores compare within one answer only."""

    item_id: ItemId
    score: float
    title: Annotated[str, Meta(description="Its name, or its id where no name is known.")]
    labels: Annotated[
        dict[str, float] | None,
        Meta(description="Of candidates that a ranker was given: each label's probability."),
    ] = None
    known: Annotated[
        bool,
        Meta(
            description="false: the ranker does not know the item, and has scored its features, "
            "the user and the context alone."
        ),
    ] = True


class Recommended(Struct, frozen=True):
    """Items, best first."""

    items: list[ScoredItem]
    state_bytes: StateBytes
    log_bytes: LogBytes
    ms: Milliseconds


class Ranked(Struct, frozen=True):
    """The candidates, best first."""

    items: list[ScoredItem]
    ms: Milliseconds


class CascadeStage(Struct, frozen=True):
    """What a stage did."""

    model: Annotated[str, Meta(description="Spec of its backbone.")]
    candidates: Annotated[int, Meta(description="How many items it scored.")]
    ms: Annotated[float, Meta(description="Compute time, reading its state included.")]


class Cascaded(Struct, frozen=True):
    """Items, best first, with the last stage's scores."""

    items: list[ScoredItem]
    stages: list[CascadeStage]
    ms: Milliseconds


class UserAppended(Struct, frozen=True):
    """What became of a user's events: one of `kept` and `error` is not null."""

    user_id: str
    kept: Kept | None = None
    error: "ErrorDetail | None" = None


class ManyAppended(Struct, frozen=True):
    """What became of each user's events, in the order of the request."""

    users: list[UserAppended]
    ms: Milliseconds


class UserRanked(Struct, frozen=True):
    """A user's candidates, best first: one of `items` and `error` is not null."""

    user_id: str
    items: list[ScoredItem] | None = None
    error: "ErrorDetail | None" = None


class ManyRanked(Struct, frozen=True):
    """Each user's candidates, in the order of the request."""

    users: list[UserRanked]
    ms: Milliseconds


class StateReport(Struct, frozen=True):
    """What is kept about a user."""

    user_id: str
    length: Length
    covered: Annotated[int, Meta(description="Of these, how many the stored state covers.")]
    slots: Annotated[int, Meta(description="Slots that the state holds.")]
    state_bytes: StateBytes
    log_bytes: LogBytes
    model: Annotated[str, Meta(description="Fingerprint of the model that wrote the state.")]
    codec: Annotated[str, Meta(description="Spec of the codecs that compressed it.")]
    ms: Milliseconds


class Forgotten(Struct, frozen=True):
    """The user of whom something was deleted."""

    user_id: str
    ms: Milliseconds


class Stats(Struct, frozen=True):
    """The model, its recipe, and what the stored states cost."""

    backbone: Annotated[str, Meta(description="Spec of the backbone.")]
    model: Annotated[str, Meta(description="Fingerprint of the model.")]
    codec: Annotated[str, Meta(description="Spec of the codecs.")]
    num_items: Annotated[int, Meta(description="Items that the model knows.")]
    labels: Annotated[
        list[str],
        Meta(
            description="What a ranker predicts, candidates in order of the first one. Bit 0 of an "
            "event's action says whether the first one was 1, bit 1 the second one, and so on."
        ),
    ]
    contexts: Annotated[list[str], Meta(description="Context columns that a ranker reads.")]
    item_id_type: Annotated[
        Literal["integer", "string"], Meta(description="JSON type of their ids.")
    ]
    users: Annotated[int, Meta(description="Users with a stored state.")]
    bytes_total: Annotated[int, Meta(description="Stored bytes of all states.")]
    bytes_p50: Annotated[float, Meta(description="Stored bytes of a state, median.")]
    bytes_p99: Annotated[float, Meta(description="Stored bytes of a state, 99th percentile.")]
    shared_bytes: Annotated[int, Meta(description="Bytes of the tables that all users share.")]
    ms: Milliseconds


class Health(Struct, frozen=True):
    """All is well."""

    status: Literal["ok"]


class ErrorDetail(Struct, frozen=True):
    """What was given, what is allowed, what to do."""

    type: Annotated[str, Meta(description="Class of the error.")]
    message: str
    status: Annotated[int, Meta(description="The HTTP status again.")]


class ErrorAnswer(Struct, frozen=True):
    """The one shape of every error."""

    error: ErrorDetail

"""Errors that only HTTP knows, and the status of every error."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect

from gistrec.errors import (
    BusyError,
    CodecError,
    ConfigError,
    ConflictError,
    DataError,
    GistrecError,
    StateError,
    StoreError,
    StoreUnavailableError,
)
from gistrec.server.schema import ErrorDetail


class RefusedError(GistrecError):
    """Base of errors whose answer has headers of its own."""

    headers: Mapping[str, str] = {}


class UnauthenticatedError(RefusedError):
    """The request has no key, or an unknown one."""

    headers = {"WWW-Authenticate": "Bearer"}


class ForbiddenError(GistrecError):
    """The request's key does not have the scope."""


class NotFoundError(GistrecError):
    """There is no such route or user."""


class MethodNotAllowedError(GistrecError):
    """The route is there, but not with this method."""


class BodyTooLargeError(GistrecError):
    """The request's body is too long."""


class MediaTypeError(GistrecError):
    """The request's body is not declared to be JSON."""


class SchemaError(GistrecError):
    """The request does not fit the schema."""


class SlowBodyError(GistrecError):
    """The request's body did not arrive in time."""


class OverloadedError(RefusedError):
    """As many requests as allowed are open."""

    headers = {"Retry-After": "1"}


class NotReadyError(RefusedError):
    """The model is being loaded, or the server ends."""

    headers = {"Retry-After": "1"}


class NotBegunError(RefusedError):
    """The request waited too long for others; nothing was done."""

    headers = {"Retry-After": "1"}


class DeadlineError(GistrecError):
    """The request took too long; what it asks for may have been done or still be done."""


STATUS: Mapping[type[Exception], int] = {
    ConfigError: 400,
    DataError: 400,
    CodecError: 400,
    ClientDisconnect: 400,  # nobody is left to read it
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    SlowBodyError: 408,
    ConflictError: 409,
    BodyTooLargeError: 413,
    MediaTypeError: 415,
    SchemaError: 422,
    OverloadedError: 429,
    StateError: 500,
    StoreError: 500,
    BusyError: 503,
    StoreUnavailableError: 503,
    NotReadyError: 503,
    NotBegunError: 503,
    DeadlineError: 504,
}
"""Error class -> status; the nearest base class counts."""


def detail(error: Exception) -> ErrorDetail:
    """What the client is told; of an error that is not in the table, only that there was one."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return ErrorDetail(type(error).__name__, str(error), STATUS[cls])
    return ErrorDetail("InternalError", "internal error: the server's log says more", 500)

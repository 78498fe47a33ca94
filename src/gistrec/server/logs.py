"""What a server writes to stderr: lines of text or JSON without user ids, keys or queries.

A request is known by its route, never by its path. Of errors the class and the lines of code are
logged, not the message, which may name a user; the client has got it, unless it was unexpected.
"""

import logging
import os
import sys
import time
import traceback
from typing import Any

import msgspec

from gistrec.errors import GistrecError, StoreUnavailableError
from gistrec.server.settings import LogFormat

log = logging.getLogger(__name__)


def set_up(form: LogFormat | None) -> None:
    """Send all logs of the process to stderr, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    if form:
        log.setLevel(logging.INFO)


def request(route: str, status: int, ms: float, key: str | None) -> None:
    """Log a request.

    Args:
        route: Method and path, without what stands in it.
        status: Of the answer.
        ms: From the first byte to the end of the answer.
        key: Name of the key that it had.
    """
    if log.isEnabledFor(logging.INFO):
        fields = {"route": route, "status": status, "ms": round(ms, 3)}
        log.info("request", extra={"fields": fields | ({"key": key} if key else {})})


def failure(error: Exception) -> None:
    """Log why a request was answered with a status of 500 and more."""
    kind = type(error).__name__
    if isinstance(error, StoreUnavailableError):  # its message names the store, no user
        log.error("%s: %s", kind, error)
    elif isinstance(error, GistrecError):
        log.error("%s: the answer says why", kind)
    else:
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s, its message is left out, raised at\n%s", kind, frames.rstrip())


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()} {said}".rstrip()
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": os.getpid(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["raised"] = self.formatException(record.exc_info)
        return msgspec.json.encode(document).decode()


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + (
        f".{int(record.msecs):03d}Z"
    )

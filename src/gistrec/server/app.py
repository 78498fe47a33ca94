"""Operations as a Starlette app: routing, checks of what came in, answers and errors."""

import asyncio
import functools
import inspect
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gistrec.errors import BusyError, DataError
from gistrec.recommender import Recommender
from gistrec.server import logs
from gistrec.server.errors import (
    BodyTooLargeError,
    MediaTypeError,
    MethodNotAllowedError,
    NotFoundError,
    RefusedError,
    SchemaError,
    detail,
)
from gistrec.server.openapi import Operation
from gistrec.server.operations import Service
from gistrec.server.routes import OPERATIONS
from gistrec.server.schema import ErrorAnswer
from gistrec.server.settings import DEFAULTS, Settings


def create_app(recommender: Recommender, settings: Settings = DEFAULTS) -> Starlette:
    """An ASGI app that answers for a recommender (whose owner closes it)."""
    service = Service(settings)
    service.begin(recommender)
    return app_of(service)


def app_of(service: Service) -> Starlette:
    """An ASGI app for operations, whose recommender may come later."""
    routes = []
    for path in dict.fromkeys(operation.path for operation in OPERATIONS):
        methods = {o.method: o for o in OPERATIONS if o.path == path}
        routes.append(
            Route(
                # a user id before another part may hold '/' as it is
                path.replace("{user_id}/", "{user_id:path}/"),
                functools.partial(_answer, service, methods),
                methods=list(methods),
            )
        )
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Outermost, service)],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    return app


def get(recommender: Recommender, path: str) -> tuple[int, dict[str, str], bytes]:
    """Answer one GET in this process, without a socket: status, headers and body.

    Args:
        recommender: Who answers.
        path: With its query, percent-encoded: `/v1/users/ann/recommendations?k=5`.
    """
    parts = urlsplit(path)
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(create_app(recommender)(scope, receive, send))
    start, *chunks = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(m.get("body", b"") for m in chunks)


class _Outermost:
    """ASGI middleware: routes are found by the path as it was sent, and every request is timed.

    In a decoded path the state of user `a` and the user `a/state` would be one.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.metered = service.metered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        scope["path"] = raw.decode("latin-1")
        status = 500
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # paths that no route knows share a label, or anybody could grow the metrics
            route = scope.get("gistrec.route", "unmatched")
            seconds = time.perf_counter() - started
            self.metered.requests.labels(route, status).observe(seconds)
            self.metered.count()
            logs.request(route, status, seconds * 1e3, scope.get("gistrec.key"))


async def _answer(service: Service, methods: Mapping[str, Operation], request: Request) -> Response:
    operation = methods["GET" if request.method == "HEAD" else request.method]
    request.scope["gistrec.route"] = f"{operation.method} {operation.path}"
    try:
        if service.settings.keys and operation.scope:
            authorization = request.headers.get("authorization")
            name = service.settings.keys.check(authorization, operation.scope)
            request.scope["gistrec.key"] = name
        if inspect.iscoroutinefunction(operation.call):
            result = await operation.call(service, **await _arguments(operation, request, service))
        else:
            with service.gate.admitted(aside=operation.aside) as admission:
                arguments = await admission.receive(_arguments(operation, request, service))
                result = await admission.run(
                    functools.partial(operation.call, service, **arguments)
                )
    except Exception as error:
        return _failure(error)
    if isinstance(result, Response):
        return result
    content = result if isinstance(result, bytes) else msgspec.json.encode(result)
    return Response(content, headers={"Content-Type": operation.produces})


async def _arguments(operation: Operation, request: Request, service: Service) -> dict[str, Any]:
    """What the operation's function is called with, checked."""
    found: dict[str, Any] = {}
    if "user_id" in operation.types:
        raw = unquote_to_bytes(request.path_params["user_id"].encode("latin-1"))
        found["user_id"] = user_id = raw.decode(errors="replace")
        if not user_id or "\ufffd" in user_id:
            raise DataError(f"{user_id!r} is not a user id: give a text, percent-encoded UTF-8")
    if "name" in operation.types:
        found["name"] = request.path_params["name"]
    if "authorization" in operation.types:
        found["authorization"] = request.headers.get("authorization")
    try:
        if query := operation.types.get("query"):
            given = dict(request.query_params)
            found["query"] = msgspec.convert(given, query, strict=False)
        if body := operation.types.get("body"):
            found["body"] = msgspec.json.decode(
                await _body(request, service.settings.max_body_bytes), type=body
            )
    except msgspec.ValidationError as error:
        raise SchemaError(f"wrong request: {error}; /openapi.json has the schema") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the body is not JSON: {error}") from None
    return found


async def _body(request: Request, max_bytes: int) -> bytes:
    # a page of another site can send text/plain to a local server, but not JSON unasked
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise MediaTypeError(
            f"the body is declared as {media_type or 'nothing'!r}: "
            "send it with the header Content-Type: application/json"
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLargeError(
                f"the body has more than {max_bytes} bytes: send it in several requests"
            )
    return bytes(body)


def _unrouted(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in the one shape of errors."""
    path = request.scope["path"]
    if not isinstance(error, HTTPException) or error.status_code == 404:
        return _failure(NotFoundError(f"no route {path!r}: /openapi.json lists them"))
    allowed = (error.headers or {})["Allow"]
    refused = MethodNotAllowedError(f"{request.method} is not for {path!r}: allowed are {allowed}")
    return _failure(refused, error.headers)


def _failure(error: Exception, headers: Mapping[str, str] | None = None) -> Response:
    told = detail(error)
    if told.status >= 500:
        logs.failure(error)
    if isinstance(error, RefusedError):
        headers = error.headers
    elif isinstance(error, BusyError):
        headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
    return Response(
        msgspec.json.encode(ErrorAnswer(told)), told.status, headers, "application/json"
    )

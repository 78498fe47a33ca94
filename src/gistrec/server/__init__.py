"""The HTTP server: a `Recommender` behind JSON, with OpenAPI, metrics and a page to try it.

`schema` holds what is accepted and answered, `operations` what is done, `openapi` the descriptions
made from both; here they become a Starlette app on uvicorn.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from gistrec.errors import ConfigError, DataError
from gistrec.recommender import Recommender

try:
    import prometheus_client  # noqa: F401  # a submodule needs it; missing extras are told here
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as missing:
    raise ConfigError(
        f'the HTTP server needs {missing.name}, not installed: run pip install "gistrec[serve]"'
    ) from missing

from gistrec.server import openapi
from gistrec.server.errors import (
    BodyTooLargeError,
    MediaTypeError,
    MethodNotAllowedError,
    NotFoundError,
    SchemaError,
    detail,
)
from gistrec.server.openapi import Operation
from gistrec.server.operations import OPERATIONS, Service
from gistrec.server.schema import MAX_BODY_BYTES, ErrorAnswer

LogLevel = Literal["critical", "error", "warning", "info", "debug", "trace"]

log = logging.getLogger(__name__)


def create_app(recommender: Recommender) -> Starlette:
    """An ASGI app that answers for a recommender (whose owner closes it)."""
    service = Service(recommender)
    # Measured with 16 clients on two busy cores: with calls of 1 ms in worker threads /healthz
    # answers in 1 ms, with calls in the event loop in 22 ms, at the same requests a second. The hop
    # costs 0.05 ms (anyio.to_thread 0.1 ms). More threads than cores gain nothing: torch is busy.
    workers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gistrec")
    routes = []
    for path in dict.fromkeys(operation.path for operation in OPERATIONS):
        methods = {o.method: o for o in OPERATIONS if o.path == path}
        route = Route(
            path.replace("{user_id}", "{user_id:path}"),
            functools.partial(_answer, service, workers, methods),
            methods=list(methods),
        )
        # a user id may hold '/' (hence :path) and line breaks
        route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)
        routes.append(route)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Latency, service)],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    return app


def serve(
    recommender: Recommender,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    log_level: LogLevel = "warning",
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the open requests and return.

    Prints one line with the URL when ready. To be called in the main thread.

    Args:
        recommender: What is served; the caller closes it.
        host: Address to listen on; there is no authentication, so keep to one that only trusted
            callers reach.
        port: 0 takes a free one.
        log_level: Of uvicorn; debug and trace also log every request.

    Raises:
        ConfigError: the address can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host}, port {port}: {error.strerror}; give another --port (0: any)"
        ) from error
    config = uvicorn.Config(
        create_app(recommender),
        log_level=log_level,
        access_log=log_level in ("debug", "trace"),
        timeout_graceful_shutdown=10,
    )
    # uvicorn raises the signal again once it has shut down; this way SIGTERM, too, ends in a return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with listener, contextlib.suppress(KeyboardInterrupt):
            _Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)


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


def http_reference() -> str:
    """The text of `docs/http.md`."""
    return openapi.reference(OPERATIONS)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            sys.stdout.write(f"gistrec serves at {url} (stop with Ctrl-C)\n")
            sys.stdout.flush()


class _Latency:
    """ASGI middleware that times every request, by operation and status."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.latency = service.latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            if scope["type"] == "http":
                # paths that no route knows share a label, or anybody could grow the metrics
                route = scope.get("gistrec.route", "unmatched")
                self.latency.labels(route, status).observe(time.perf_counter() - started)


async def _answer(
    service: Service,
    workers: ThreadPoolExecutor,
    methods: Mapping[str, Operation],
    request: Request,
) -> Response:
    operation = methods["GET" if request.method == "HEAD" else request.method]
    request.scope["gistrec.route"] = f"{operation.method} {operation.path}"
    try:
        call = functools.partial(operation.call, service, **await _arguments(operation, request))
        if inspect.iscoroutinefunction(operation.call):
            result = await call()
        else:
            result = await asyncio.get_running_loop().run_in_executor(workers, call)
    except Exception as error:
        return _failure(error)
    if isinstance(result, Response):
        return result
    content = result if isinstance(result, bytes) else msgspec.json.encode(result)
    return Response(content, headers={"Content-Type": operation.produces})


async def _arguments(operation: Operation, request: Request) -> dict[str, Any]:
    """What the operation's function is called with, checked."""
    found: dict[str, Any] = {}
    if "user_id" in operation.types:
        found["user_id"] = user_id = request.path_params["user_id"]
        if not user_id or "\ufffd" in user_id:
            raise DataError(f"{user_id!r} is not a user id: give a text, percent-encoded UTF-8")
    try:
        if query := operation.types.get("query"):
            given = dict(request.query_params)
            found["query"] = msgspec.convert(given, query, strict=False)
        if body := operation.types.get("body"):
            found["body"] = msgspec.json.decode(await _body(request), type=body)
    except msgspec.ValidationError as error:
        raise SchemaError(f"wrong request: {error}; /openapi.json has the schema") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the body is not JSON: {error}") from None
    return found


async def _body(request: Request) -> bytes:
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
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(
                f"the body has more than {MAX_BODY_BYTES} bytes: send it in several requests"
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
        log.error("a request failed", exc_info=error)
    return Response(
        msgspec.json.encode(ErrorAnswer(told)), told.status, headers, "application/json"
    )

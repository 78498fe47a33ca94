"""Operations described: as an OpenAPI 3.1 document, and as a page for people."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from gistrec.server import schema
from gistrec.server.keys import SCOPES, Scope

MEANING: Mapping[int, str] = {
    400: "A wrong id, or a body that is not JSON.",
    401: "No key, or an unknown one, where the server asks for keys.",
    403: "The key does not have the operation's scope.",
    404: "No such user or route.",
    405: "Another method is meant; the header `Allow` names it.",
    409: "Others wrote the same user at once, or the history has another length than expected.",
    408: "The body did not arrive in time; nothing was done.",
    413: "A body that is longer than the server allows (a MiB, or `--max-body-bytes`).",
    415: "A body without `Content-Type: application/json`.",
    422: "A request that does not fit the schema; the message names the place.",
    429: "Too many requests are open; nothing was done. `Retry-After` says when to try again.",
    500: "A fault of the server or of stored bytes; its log says more.",
    503: "The store can't be reached, the model is not loaded yet, or the request waited too long "
    "for others (`type` tells which). Retry later, events with their ids or the expected length.",
    504: "It took too long, and may have been done or still be done: an append may be logged. "
    "Repeat it with the same event ids or expected length.",
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One method of one path; the function's signature is its schema."""

    method: str
    path: str
    call: Callable[..., Any]
    """Its parameters (besides the service) are some of `user_id`, `name` (of the path), `query`,
    `body` and `authorization` (the header)."""
    scope: Scope | None
    """What a key must have, where the server asks for keys; None: no key is asked for."""
    produces: str = "application/json"
    aside: bool = False
    """Answered in threads of its own, however many requests wait."""
    errors: tuple[int, ...] = ()
    """Statuses that it adds to those that follow from its signature."""

    @property
    def id(self) -> str:
        """The operation id: the function's name."""
        return self.call.__name__

    @property
    def summary(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.call) or ""

    @functools.cached_property
    def types(self) -> dict[str, Any]:
        """Parameter or "return" -> type."""
        return get_type_hints(self.call)

    @property
    def statuses(self) -> list[int]:
        """Every error status that it may answer with."""
        found = {500, *self.errors}
        found |= {401, 403} if self.scope else set()
        found |= {400, 409} if "user_id" in self.types else set()
        found |= {422} if "query" in self.types else set()
        found |= {400, 408, 413, 415, 422} if "body" in self.types else set()
        if not inspect.iscoroutinefunction(self.call):
            found |= {503, 504} if self.aside else {429, 503, 504}
        return sorted(found)


def document(operations: Sequence[Operation], *, keys: bool = True) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    Args:
        operations: What is described.
        keys: Whether the server asks for keys.
    """
    structs = {
        t
        for operation in operations
        for t in operation.types.values()
        if isinstance(t, type) and issubclass(t, Struct)
    }
    _, components = msgspec.json.schema_components(
        [*sorted(structs, key=lambda t: t.__name__), schema.ErrorAnswer],
        ref_template="#/components/schemas/{name}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = {
            "operationId": operation.id,
            "summary": operation.summary,
            "security": [{"key": [operation.scope]}] if operation.scope and keys else [],
            **_inputs(operation, components),
            "responses": _responses(operation, keys),
        }
    for query in {o.types["query"].__name__ for o in operations if "query" in o.types}:
        del components[query]
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "gistrec",
            "version": version("gistrec"),
            "description": "Recommendations from states of a few bytes per user.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        found["components"]["securitySchemes"] = {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of `gistrec keys add`; its scopes are some of "
                f"{', '.join(SCOPES)}.",
            }
        }
    return found


def _ref(struct: type[Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{struct.__name__}"}}


def _inputs(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    parameters = []
    if "user_id" in operation.types:
        # U+FFFD is what bytes that are not UTF-8 are decoded to: several users would become one
        text = {"type": "string", "minLength": 1, "pattern": "^[^\\uFFFD]+$"}
        parameters.append(
            {
                "name": "user_id",
                "in": "path",
                "required": True,
                "description": "Any text of 1 to 256 bytes, percent-encoded UTF-8.",
                "schema": text,
            }
        )
    if "name" in operation.types:
        described = {"description": "Name of the file.", "schema": {"type": "string"}}
        parameters.append({"name": "name", "in": "path", "required": True, **described})
    if "query" in operation.types:
        for name, field in components[operation.types["query"].__name__]["properties"].items():
            field = dict(field)
            described = {"description": field.pop("description")}
            parameters.append({"name": name, "in": "query", **described, "schema": field})
    inputs: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if "body" in operation.types:
        content = {"application/json": _ref(operation.types["body"])}
        inputs["requestBody"] = {"required": True, "content": content}
    return inputs


def _responses(operation: Operation, keys: bool) -> dict[str, Any]:
    returns = operation.types["return"]
    if issubclass(returns, Struct):
        content, description = _ref(returns), inspect.getdoc(returns)
    else:
        shape = "object" if operation.produces == "application/json" else "string"
        content, description = {"schema": {"type": shape}}, operation.summary
    responses: dict[str, Any] = {
        "200": {"description": description, "content": {operation.produces: content}}
    }
    for status in operation.statuses:
        if status in (401, 403) and not keys:
            continue
        responses[str(status)] = {
            "description": MEANING[status],
            "content": {"application/json": _ref(schema.ErrorAnswer)},
        }
    return responses

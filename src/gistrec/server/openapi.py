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
    413: f"A body of more than {schema.MAX_BODY_BYTES:,} bytes.",
    415: "A body without `Content-Type: application/json`.",
    422: "A request that does not fit the schema; the message names the place.",
    500: "A fault of the server or of stored bytes; its log says more.",
    503: "The store can't be reached: retry later, events with their ids or the expected length.",
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One method of one path; the function's signature is its schema."""

    method: str
    path: str
    call: Callable[..., Any]
    """Its parameters (besides self) are some of `user_id`, `query` and `body`."""
    scope: Scope | None
    """What a key must have, where the server asks for keys; None: no key is asked for."""
    produces: str = "application/json"
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
        found |= {413, 415, 422} if "body" in self.types else set()
        found |= set() if inspect.iscoroutinefunction(self.call) else {503}
        return sorted(found)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
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
            "security": [{"key": [operation.scope]}] if operation.scope else [],
            **_inputs(operation, components),
            "responses": _responses(operation),
        }
    for query in {o.types["query"].__name__ for o in operations if "query" in o.types}:
        del components[query]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gistrec",
            "version": version("gistrec"),
            "description": "Recommendations from states of a few bytes per user.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `gistrec keys add`, where the server asks for keys; "
                    f"its scopes are some of {', '.join(SCOPES)}.",
                }
            },
        },
    }


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


def _responses(operation: Operation) -> dict[str, Any]:
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
        responses[str(status)] = {
            "description": MEANING[status],
            "content": {"application/json": _ref(schema.ErrorAnswer)},
        }
    return responses


def reference(operations: Sequence[Operation]) -> str:
    """`docs/http.md`: the same description as a page for people."""
    described = document(operations)
    lines = [
        "# HTTP interface",
        "",
        "<!-- Made by gistrec.server.http_reference(); do not edit. -->",
        "",
        "`gistrec serve` answers these; a running server describes itself at `/openapi.json` and",
        "has a page to try it at `/`. Bodies are JSON, integers of 64 bits, times Unix seconds.",
        "An item id is a number or a text, as in the log that the model was trained on. A user id",
        "is any text of 1 to 256 bytes, percent-encoded in a path. Unknown fields and parameters",
        "are errors.",
        "",
        "| operation | path | scope | does |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{o.id}](#{o.id}) | `{o.method} {o.path}` | {o.scope or 'open'} | {o.summary} |"
        for o in operations
    ]
    lines += _KEYS
    for operation in operations:
        entry = described["paths"][operation.path][operation.method.lower()]
        lines += ["", f"## {operation.id}", "", f"`{operation.method} {operation.path}`"]
        lines += ["", operation.summary]
        query = [p for p in entry.get("parameters", []) if p["in"] == "query"]
        if query:
            fields = {p["name"]: {**p["schema"], "description": p["description"]} for p in query}
            lines += ["", "Query:", "", *_table({"properties": fields})]
        if "requestBody" in entry:
            lines += _shape("Body", entry["requestBody"]["content"], described)
        lines += _shape("Answer", entry["responses"]["200"]["content"], described)
        lines += ["", "Errors: " + ", ".join(map(str, operation.statuses)) + "."]
    lines += [
        "",
        "## Errors",
        "",
        "Every error has one shape, `type` being the class of the error:",
        "",
        "```json",
        '{"error": {"type": "DataError", "message": "what was given, what is allowed, what to do", '
        '"status": 400}}',
        "```",
        "",
        "| status | meaning |",
        "|---|---|",
        *(f"| {status} | {meaning} |" for status, meaning in MEANING.items()),
    ]
    return "\n".join(lines) + "\n"


_KEYS = """
## Keys and scopes

`gistrec serve` answers anybody, and therefore listens on the loopback interface only, unless it is
told otherwise by `--open`. With `--keys FILE` it asks for a key in the header
`Authorization: Bearer KEY`:

```sh
gistrec keys add keys.jsonl --name shop --scope read --scope write  # prints the key, once
gistrec keys list keys.jsonl
gistrec keys revoke keys.jsonl --name shop  # running servers refuse it within a second
```

A key has 256 random bits, and the file holds its SHA-256 only. `read` lets ask for recommendations,
states, statistics and metrics, `write` append events, `admin` erase. A scope implies no other. Open
to all are `/healthz`, `/readyz`, `/openapi.json`, and the page `/`, which asks for a key and keeps
it until it is closed. Keys cross the network as they are: give `--tls-cert` and `--tls-key`, or
put the server behind a proxy that speaks TLS.
""".rstrip("\n").split("\n")


def _shape(title: str, content: dict[str, Any], described: dict[str, Any]) -> list[str]:
    """The tables of a content's struct and of the structs inside it."""
    media_type, media = next(iter(content.items()))
    name = media["schema"].get("$ref", "").rpartition("/")[2]
    if not name:
        return ["", f"{title}: `{media_type}`."]
    struct = described["components"]["schemas"][name]
    lines = ["", f"{title}: {struct['description']}", "", *_table(struct)]
    for field, inner in struct["properties"].items():
        if "$ref" in inner.get("items", {}):
            inner = described["components"]["schemas"][inner["items"]["$ref"].rpartition("/")[2]]
            lines += ["", f"Each of `{field}`: {inner['description']}", "", *_table(inner)]
    return lines


def _table(struct: dict[str, Any]) -> list[str]:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in struct["properties"].items():
        notes = [field["description"]] if "description" in field else []
        if "default" in field:
            notes.append(f"Default: `{msgspec.json.encode(field['default']).decode()}`.")
        rows.append(f"| `{name}` | {_type(field)} | {' '.join(notes)} |")
    return rows


def _type(field: dict[str, Any]) -> str:
    """A field's type in words, with its limits where they are not those of 64 bits."""
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        limits = f", {field['minItems']:,} to {field['maxItems']:,}" if "maxItems" in field else ""
        return f"list{limits}"
    limits = f"{field.get('minimum', -(2**63)):,} to {field.get('maximum', 2**63 - 1):,}"
    words: str = field["type"]
    return words if limits == f"{-(2**63):,} to {2**63 - 1:,}" else f"{words}, {limits}"

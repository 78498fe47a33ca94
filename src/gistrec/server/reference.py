"""Operations described for people: the page `docs/http.md`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gistrec.server.openapi import MEANING, Operation, document

_PROSE = """
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
states, statistics and metrics, `write` append events, `admin` erase and switch versions. A scope
implies no other. Open to all are `/healthz`, `/readyz`, `/openapi.json`, and the dashboard `/`,
which asks for a key and keeps it until it is closed; `/v1/access` answers any key. Keys cross the
network as they are: give `--tls-cert` and `--tls-key`, or put the server behind a proxy that speaks
TLS.

Erasing takes everything of a user out of the store. An engine may keep the bytes on its disk until
it uses the place again: lmdb in free pages of its file, Redis in its append-only file until that is
rewritten.

## Rankers

A model that was trained on impressions (`/v1/stats` names its `labels` and `contexts`) ranks by the
first label and answers with each label's probability. It is told more, and more is left to say:

- **Actions**: events need them, since a ranker reads what the user did: bit 0 says if the first
  label was 1, bit 1 the second one, and so on. What was shown and not liked is an event, too.
- **Context** is a column's value, `{"tab": 1}`, of the request or of a candidate, which goes first.
  A column that the ranker was not trained with is an error; one that is left out is missing.
- **Unknown items** are scored as nothing but their `features`, if the request gives any, and come
  with `"known": false`; a new item makes no request fail. Models that are no rankers refuse them.

## Too much, too slow, at the end

- **Too much at once**: a process works on `--in-flight` requests, `--waiting` more may wait; the
  next one is refused at once with 429 and `Retry-After`. `/healthz`, `/readyz` and `/metrics` do
  not count.
- **Too slow**: within `--timeout-s` a request is answered, 408 if its body did not arrive, 503
  (`NotBegunError`) if all that time others were worked on, 504 (`DeadlineError`) if it was begun.
  Only the last may have done something: repeat an append with the same event ids or
  `expected_length`, and nothing is logged twice.
- **Slow headers**: the time of a request begins when its headers are there. A client that sends
  them a byte at a time, or opens connections and says nothing, keeps a connection, not a thread;
  there is no limit to that but the process's number of open files. So beyond a trusted network a
  proxy belongs in front that waits for headers a few seconds only and counts connections: nginx
  with `client_header_timeout` and `limit_conn`, HAProxy with `timeout http-request` and `maxconn`,
  Envoy with `request_headers_timeout`. A connection without a request is closed 5 seconds after
  its last answer, so the proxy's own idle time for reused ones must be shorter than that.
- **A new model**: states that it does not have are rebuilt as users come, `--rebuilds` long ones at
  once. Up to `--rebuilds-waiting` wait `--rebuilds-wait-s` at most, the oldest model's first; the
  others get 503 (`BusyError`). Those who wait do not count as worked on, so requests of users whose
  states are there go on. A POST of events never waits for a rebuild. See
  [rollout.md](rollout.md).
- **At the end**: after SIGTERM `/readyz` says no, new requests are answered for `--linger-s` more
  seconds, then the socket is closed, open requests are finished, and the process exits with 0.
- **At the start** `/healthz` answers at once, `/readyz` when the model is loaded and the store
  can be read.
- **Several processes** (`--workers`) share port, store and the weights, which are mapped from the
  model folder: replace its files, as `gistrec train` does, and never write into them. A process
  that dies is replaced. The limits above are those of each process.

## Several users in one request

`/v1/batch/events` and `/v1/batch/rank` answer 200 if the request could be read, also if every user
in it has an `error`: look at each. Users do not depend on each other, so a batch of events is not
all or nothing; events of one user are, as in `observe`. For the limits a batch is one request.

## Looking at one user

`/v1/look/...` answers for the dashboard: a part of the history with titles; what is stored, which
events have a slot of their own, were merged or forgotten, and what is recommended; the same for
another version, or for codecs that are typed in. Users stand in the bodies, so that no address
holds them. `/v1/look/recipe` writes nothing. Codecs that are typed in are fitted to the newest 256
events of 32 users of the store, one recipe at a time (503 for the others), and the last eight are
kept; what they would learn from a whole log is `gistrec state fit`'s to say.

## Metrics and logs

`/metrics` has `gistrec_request_seconds` (histogram by `route` and `status`),
`gistrec_stage_seconds` (histogram by `stage`: load, decode, compute, store),
`gistrec_state_loads_total` (by how states were `found`), `gistrec_rebuilds` (long ones now, by
`state`: running, waiting), and of the version that serves
`gistrec_users`, `gistrec_state_bytes` and `gistrec_user_state_bytes` (by `quantile`), up to a
minute old. With several processes any of them answers with the sums of all, those that have ended
included; users and bytes are the store's.

`--log-format json` (or `text`) writes a line to stderr for every request: time, level, logger,
process, route, status, ms, and the name of the key. No log holds user ids, items, keys, paths or
queries; of errors it names the class, and of unexpected ones the lines of code.
""".rstrip("\n").split("\n")


def reference(operations: Sequence[Operation]) -> str:
    """`docs/http.md`: the same description as a page for people."""
    described = document(operations)
    lines = [
        "# HTTP interface",
        "",
        "<!-- Made by gistrec.server.http_reference(); do not edit. -->",
        "",
        "`gistrec serve` answers these; a running server describes itself at `/openapi.json` and",
        "has a dashboard at `/`. Bodies are JSON, integers of 64 bits, times Unix seconds.",
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
    lines += _PROSE
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


def _shape(title: str, content: dict[str, Any], described: dict[str, Any]) -> list[str]:
    """The tables of a content's struct and of the structs inside it."""
    media_type, media = next(iter(content.items()))
    if "$ref" not in media["schema"]:
        return ["", f"{title}: `{media_type}`."]
    return _tables(title, media["schema"]["$ref"], described["components"]["schemas"], set())


def _tables(title: str, ref: str, structs: dict[str, Any], shown: set[str]) -> list[str]:
    struct = structs[ref.rpartition("/")[2]]
    lines = ["", f"{title}: {struct['description']}", "", *_table(struct)]
    shown.add(ref)
    for name, field in struct["properties"].items():
        for form in field.get("anyOf", [field]):
            inner, word = form.get("items", {}).get("$ref"), "Each of "
            if inner is None:
                inner, word = form.get("$ref"), ""
            if inner and inner not in shown:
                lines += _tables(f"{word}`{name}`", inner, structs, shown)
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
    if "$ref" in field:
        return "object"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        limits = f", {field['minItems']:,} to {field['maxItems']:,}" if "maxItems" in field else ""
        return f"list{limits}"
    limits = f"{field.get('minimum', -(2**63)):,} to {field.get('maximum', 2**63 - 1):,}"
    words: str = field["type"]
    return words if limits == f"{-(2**63):,} to {2**63 - 1:,}" else f"{words}, {limits}"

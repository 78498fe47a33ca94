import json
import re
from pathlib import Path

import msgspec

from gistrec import server
from gistrec.server.keys import KeyRing, add_key
from gistrec.server.openapi import document
from gistrec.server.routes import OPERATIONS


def test_openapi_documents_every_route_and_no_other(http) -> None:
    described = http("GET", "/openapi.json").json()
    assert described == json.loads(msgspec.json.encode(document(OPERATIONS, keys=False)))
    documented = {
        (path, method.upper()) for path, methods in described["paths"].items() for method in methods
    }
    app = http.app
    served = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    assert documented == served
    ids = [m["operationId"] for methods in described["paths"].values() for m in methods.values()]
    assert len(set(ids)) == len(ids)


def test_openapi_is_strict_about_input(http) -> None:
    described = http("GET", "/openapi.json").json()
    schemas = described["components"]["schemas"]
    for name in ("NewEvents", "NewEvent", "Candidates"):
        assert schemas[name]["additionalProperties"] is False
    assert schemas["NewEvents"]["properties"]["events"]["maxItems"] == 1000
    recommend = described["paths"]["/v1/users/{user_id}/recommendations"]["get"]
    assert [p["name"] for p in recommend["parameters"]] == ["user_id", "k", "exclude_seen", "at"]
    limits = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}
    assert recommend["parameters"][1]["schema"] == limits
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(schemas)


def test_http_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "http.md"
    assert page.read_text(encoding="utf-8") == server.http_reference(), (
        "write gistrec.server.http_reference() to docs/http.md"
    )


def test_openapi_asks_for_no_key_where_the_server_does_not(http) -> None:
    described = http("GET", "/openapi.json").json()
    assert "securitySchemes" not in described["components"]
    for methods in described["paths"].values():
        for operation in methods.values():
            assert operation["security"] == []
            assert not {"401", "403"} & operation["responses"].keys()


def test_openapi_names_the_scope_of_every_operation(serving, fake, tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "shop", ["read"])
    http = serving(fake, keys=KeyRing(tmp_path / "keys"))
    described = http("GET", "/openapi.json").json()
    assert {"401", "403"} < described["paths"]["/v1/stats"]["get"]["responses"].keys()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    asked = {
        operation["operationId"]: operation["security"]
        for methods in described["paths"].values()
        for operation in methods.values()
    }
    assert asked["observe"] == [{"key": ["write"]}]
    assert asked["metrics"] == [{"key": ["read"]}]
    assert asked["forget"] == [{"key": ["admin"]}]
    assert {name for name, security in asked.items() if not security} == {
        "healthz",
        "readyz",
        "access",
        "dashboard",
        "asset",
        "openapi",
    }


def test_a_body_that_is_not_json_is_answered_as_documented(http) -> None:
    described = http("GET", "/openapi.json").json()
    asked = 0
    for operation in OPERATIONS:
        if "body" in operation.types:
            method, path = operation.method, operation.path.replace("{user_id}", "ann")
            answer = http.error(
                method, path, content=b"{", headers={"Content-Type": "application/json"}
            )
            documented = described["paths"][operation.path][method.lower()]["responses"]
            assert answer[:2] == (400, "DataError")
            assert "400" in documented, operation.id
            asked += 1
    assert asked >= 8

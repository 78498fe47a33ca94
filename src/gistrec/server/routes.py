"""Which operation answers which method and path, and what a key must have for it."""

import functools

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gistrec.server import dashboard
from gistrec.server.openapi import Operation, document
from gistrec.server.operations import Service


async def openapi(service: Service) -> bytes:
    """Describe this interface as an OpenAPI 3.1 document."""
    return _openapi_json(service.settings.keys is not None)


OPERATIONS = (
    Operation("POST", "/v1/users/{user_id}/events", Service.observe, "write"),
    Operation("POST", "/v1/batch/events", Service.observe_many, "write"),
    Operation("GET", "/v1/users/{user_id}/recommendations", Service.recommend, "read"),
    Operation("POST", "/v1/users/{user_id}/rank", Service.rank, "read"),
    Operation("POST", "/v1/users/{user_id}/cascade", Service.cascade, "read", errors=(404,)),
    Operation("POST", "/v1/batch/rank", Service.rank_many, "read"),
    Operation("GET", "/v1/users/{user_id}/state", Service.describe, "read", errors=(404,)),
    Operation("DELETE", "/v1/users/{user_id}/state", Service.drop_state, "admin", errors=(404,)),
    Operation("DELETE", "/v1/users/{user_id}", Service.forget, "admin", errors=(404,)),
    Operation("GET", "/v1/stats", Service.stats, "read"),
    Operation("POST", "/v1/look/history", dashboard.history, "read"),
    Operation("POST", "/v1/look/state", dashboard.look, "read", errors=(409,)),
    Operation("POST", "/v1/look/recipe", dashboard.compare, "read"),
    Operation("GET", "/v1/versions", dashboard.versions, "read"),
    Operation("PUT", "/v1/serving", dashboard.switch, "admin", errors=(404,)),
    Operation("GET", "/v1/results", dashboard.results, "read"),
    Operation("GET", "/v1/access", dashboard.access, None, aside=True, errors=(401,)),
    Operation("GET", "/healthz", Service.healthz, None),
    Operation("GET", "/readyz", Service.readyz, None, aside=True),
    Operation("GET", "/metrics", Service.metrics, "read", CONTENT_TYPE_LATEST, aside=True),
    Operation("GET", "/", dashboard.dashboard, None, "text/html"),
    Operation("GET", "/pages/{name}", dashboard.asset, None, "*/*", errors=(404,)),
    Operation("GET", "/openapi.json", openapi, None),
)


@functools.cache
def _openapi_json(keys: bool) -> bytes:
    return msgspec.json.encode(document(OPERATIONS, keys=keys))

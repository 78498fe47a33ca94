"""The HTTP server: a `Recommender` behind JSON, with OpenAPI, metrics and a page to try it.

`schema` holds what is accepted and answered, `operations` what is done, `openapi` the descriptions
made from both, `keys` who may, `gate` how many at once; `app` makes a Starlette app of them,
`running` puts it on a socket, `workers` several processes of it.
"""

from gistrec.errors import ConfigError

try:
    import prometheus_client  # noqa: F401  # submodules need these; missing extras are told here
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as missing:
    raise ConfigError(
        f'the HTTP server needs {missing.name}, not installed: run pip install "gistrec[serve]"'
    ) from missing

from gistrec.server.app import create_app, get
from gistrec.server.operations import OPERATIONS
from gistrec.server.reference import reference
from gistrec.server.running import Certificate, serve
from gistrec.server.settings import Settings

__all__ = ["Certificate", "Settings", "create_app", "get", "http_reference", "serve"]


def http_reference() -> str:
    """The text of `docs/http.md`."""
    return reference(OPERATIONS)

"""The HTTP server: a `Recommender` behind JSON, with OpenAPI, metrics and a dashboard.

`schema` and `shown` hold what is accepted and answered, `operations` and `dashboard` what is done,
`routes` where, `openapi` the descriptions made of them, `keys` who may, `gate` how many at once;
`app` makes a Starlette app of them, `running` puts it on a socket, `workers` several processes of
it. `pages` is the dashboard itself: plain HTML, CSS and modules of JavaScript.
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
from gistrec.server.reference import reference
from gistrec.server.routes import OPERATIONS
from gistrec.server.running import Certificate, serve
from gistrec.server.settings import Settings

__all__ = ["Certificate", "Settings", "create_app", "get", "http_reference", "serve"]


def http_reference() -> str:
    """The text of `docs/http.md`."""
    return reference(OPERATIONS)

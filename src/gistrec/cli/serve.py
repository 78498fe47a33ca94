"""`gistrec serve`: a model over HTTP."""

from pathlib import Path

from gistrec.cli._output import Work
from gistrec.cli._service import planned
from gistrec.errors import ConfigError


def serve(
    *,
    model: Path | None = None,
    run: Path | None = None,
    store: str = "ram://",
    host: str = "127.0.0.1",
    port: int = 8000,
    get: str | None = None,
    work: Work = Work(),
) -> int:
    """Serve a model over HTTP.

    The page at / is for trying it. There is no authentication: listen only where trusted callers
    reach.

    Args:
        model: Model folder, as `gistrec train` writes it.
        run: Instead of a model: run file of `gistrec plan`, for the model that it was measured on;
            its recipe is fitted if the model has none.
        store: URL of the store; `ram://` forgets all users at the end, lmdb://folder keeps them,
            redis://host:6379/0 shares them between servers.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        get: Answer one GET of this path, print its body and exit, without a socket.
    """
    from gistrec import server
    from gistrec.recommender import Recommender

    if (model is None) == (run is None):
        raise ConfigError("give either --model FOLDER or --run FILE, as `gistrec plan` writes it")
    folder = planned(run, work) if run is not None else model
    with Recommender.load(str(folder), store=store) as recommender:
        if get is None:
            server.serve(recommender, host=host, port=port)
            return 0
        status, _, body = server.get(recommender, get)
    text = body.decode()
    work.show({"status": status, "body": text}, text)
    return int(status >= 400)

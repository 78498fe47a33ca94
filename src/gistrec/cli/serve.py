"""`gistrec serve`: a model over HTTP."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

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
    keys: Path | None = None,
    open_to_all: Annotated[bool, Parameter(name="--open")] = False,
    get: str | None = None,
    work: Work = Work(),
) -> int:
    """Serve a model over HTTP.

    The page at / is for trying it. Without keys anybody who reaches it may read, write and erase,
    so it then listens on the loopback interface only.

    Args:
        model: Model folder, as `gistrec train` writes it.
        run: Instead of a model: run file of `gistrec plan`, for the model that it was measured on;
            its recipe is fitted if the model has none.
        store: URL of the store; `ram://` forgets all users at the end, lmdb://folder keeps them,
            redis://host:6379/0 shares them between servers.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        keys: File of the keys that callers need, made by `gistrec keys`.
        open_to_all: Listen on any address without keys, too.
        get: Answer one GET of this path, print its body and exit, without a socket.
    """
    from gistrec import server
    from gistrec.recommender import Recommender
    from gistrec.server.keys import KeyRing

    if (model is None) == (run is None):
        raise ConfigError("give either --model FOLDER or --run FILE, as `gistrec plan` writes it")
    folder = planned(run, work) if run is not None else model
    with Recommender.load(str(folder), store=store) as recommender:
        if get is None:
            settings = server.Settings(keys=KeyRing(keys) if keys else None)
            server.serve(
                recommender, host=host, port=port, open_to_all=open_to_all, settings=settings
            )
            return 0
        status, _, body = server.get(recommender, get)
    text = body.decode()
    work.show({"status": status, "body": text}, text)
    return int(status >= 400)

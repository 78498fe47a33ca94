"""`gistrec serve`: a model over HTTP."""

from pathlib import Path

from gistrec.cli._output import Output


def serve(
    *,
    model: Path,
    store: str = "ram://",
    host: str = "127.0.0.1",
    port: int = 8000,
    get: str | None = None,
    output: Output = Output(),
) -> int:
    """Serve a model over HTTP.

    The page at / is for trying it. There is no authentication: listen only where trusted callers
    reach.

    Args:
        model: Model folder, as `gistrec train` writes it.
        store: URL of the store; `ram://` forgets all users at the end, lmdb://folder keeps them.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        get: Answer one GET of this path, print its body and exit, without a socket.
    """
    from gistrec import server
    from gistrec.recommender import Recommender

    with Recommender.load(model, store=store) as recommender:
        if get is None:
            server.serve(recommender, host=host, port=port)
            return 0
        status, _, body = server.get(recommender, get)
    text = body.decode()
    output.show({"status": status, "body": text}, text)
    return int(status >= 400)

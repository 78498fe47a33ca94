"""`gistrec demo`: everything once, on this machine."""

from pathlib import Path

from gistrec.cli._output import Output


def demo(*, folder: Path = Path("demo"), quick: bool = False, output: Output = Output()) -> None:
    """Train, compress and serve on a public log: a tour of minutes.

    Args:
        folder: Where everything goes; made if it does not exist.
        quick: A smaller log, in a fraction of the time.
    """
    from rich.console import Console

    from gistrec.demo import run

    run(folder, quick=quick, console=Console(stderr=output.json))
    if output.json:
        output.show({"folder": str(folder)}, "")

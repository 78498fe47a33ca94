"""`gistrec keys`: who may call a server."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from gistrec.cli._output import MARKDOWN, PARAMETER, Output, Table

app = App(
    name="keys",
    help="Make, list and revoke the keys of `gistrec serve --keys FILE`.",
    default_parameter=PARAMETER,
    **MARKDOWN,
)


@app.command
def add(
    file: Path,
    /,
    *,
    name: str,
    scope: Annotated[list[Literal["read", "write", "admin"]], Parameter(negative=())],
    output: Output = Output(),
) -> None:
    """Make a key and print it; it is not shown again, the file holds its hash only.

    Args:
        file: Key file; it is made if it is not there.
        name: What to call the key: its owner, say.
        scope: What it may do, once for each: read, write (append events), admin (erase users).
    """
    from gistrec.server.keys import add_key

    key = add_key(file, name, scope)
    output.show({"name": name, "key": key}, key)


@app.command
def revoke(file: Path, /, *, name: str, output: Output = Output()) -> None:
    """Take a key out of the file; running servers refuse it within a second.

    Args:
        file: Key file.
        name: What the key was called.
    """
    from gistrec.server.keys import revoke_key

    revoke_key(file, name)
    output.show({"name": name, "revoked": True}, f"{name} is revoked")


@app.command(name="list")
def list_(file: Path, /, *, output: Output = Output()) -> None:
    """Say which keys there are, what they may do, and when they were made.

    Args:
        file: Key file.
    """
    from gistrec.server.keys import read_keys

    keys = read_keys(file)
    document = [{"name": k.name, "scopes": k.scopes, "created": k.created} for k in keys]
    rows = [[k.name, " ".join(k.scopes), k.created] for k in keys]
    output.show(document, Table(rows, left=3) if rows else "no keys")

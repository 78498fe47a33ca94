"""`gistrec recommend`: the best items for one user."""

from typing import Annotated

from cyclopts import Parameter

from gistrec.cli._output import Output, Table
from gistrec.cli._service import Service


def recommend(
    user: str,
    /,
    *,
    service: Service,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    at: int | None = None,
    output: Output = Output(),
) -> None:
    """Recommend items to a user; somebody unknown gets popular ones.

    Args:
        user: User id.
        k: Length of the list.
        at: Time of the request, Unix seconds; right after the user's newest event if not given.
    """
    with service.open() as recommender:
        items = recommender.recommend(user, k=k, at=at)
    rows = [
        [str(n), i.title, str(i.item_id), f"{i.score:.3f}"] for n, i in enumerate(items, start=1)
    ]
    document = {"user_id": user, "items": [item._asdict() for item in items]}
    output.show(document, Table([["", "title", "item_id", "score"], *rows], left=2, head=True))

"""Where a served model and its users are: options of verbs that work on stored users."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from gistrec.recommender import Recommender


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """A model and a store."""

    model: Path
    """Model folder, as `gistrec train` writes it."""
    store: str
    """URL of the store: lmdb:///absolute/folder or lmdb://relative/folder."""

    def open(self) -> "Recommender":
        """The recommender; to be closed."""
        from gistrec.recommender import Recommender

        return Recommender.load(self.model, store=self.store)

"""Long-sequence recommenders that keep the gist of every user's history in bytes.

The names below are imported on first use, so that `import gistrec` itself loads neither torch nor
duckdb.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gistrec.benchmark import run as bench
    from gistrec.dataset import Dataset
    from gistrec.errors import GistrecError
    from gistrec.evaluate import evaluate
    from gistrec.events import Events, from_table, read
    from gistrec.recipe import Recipe
    from gistrec.recommender import Event, Recommender
    from gistrec.train import Model, train

    __version__: str

__all__ = [
    "Dataset",
    "Event",
    "Events",
    "GistrecError",
    "Model",
    "Recipe",
    "Recommender",
    "bench",
    "evaluate",
    "from_table",
    "read",
    "train",
]

_HOMES = {
    "Dataset": "dataset.Dataset",
    "Event": "recommender.Event",
    "Events": "events.Events",
    "GistrecError": "errors.GistrecError",
    "Model": "train.Model",
    "Recipe": "recipe.Recipe",
    "Recommender": "recommender.Recommender",
    "bench": "benchmark.run",
    "evaluate": "evaluate.evaluate",
    "from_table": "events.from_table",
    "read": "events.read",
    "train": "train.train",
}


class _Package(ModuleType):
    """Lets `gistrec.train` be the function, though a module has the same name.

    Importing the module `gistrec.train`, which most other modules do, would otherwise put the
    module in the function's place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gistrec")
    if name not in _HOMES:
        raise AttributeError(f"module 'gistrec' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(".")
    found = globals()[name] = getattr(import_module(f"gistrec.{module}"), attribute)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""Where a served model and its users are: options of verbs that work on stored users."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from gistrec.cli._output import Work
from gistrec.cli._settings import dataset_of, read_toml
from gistrec.errors import ConfigError

if TYPE_CHECKING:
    from gistrec.recommender import Recommender


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """A model and a store."""

    model: Path
    """Model folder, as `gistrec train` writes it."""
    store: str
    """URL of the store: lmdb:///absolute/folder, lmdb://relative/folder or redis://host:6379/0."""

    @property
    def shown_store(self) -> str:
        """The URL without the password."""
        from gistrec.stores import without_password

        return without_password(self.store)

    def open(self) -> "Recommender":
        """The recommender; to be closed."""
        from gistrec.recommender import Recommender

        return Recommender.load(self.model, store=self.store)


def planned(run: Path, work: Work) -> Path:
    """The model folder that a run file of `gistrec plan` names, with its recipe.

    Raises:
        ConfigError: the file names no model, or the folder holds another recipe.
    """
    from gistrec import codecs
    from gistrec.build import fit_recipe
    from gistrec.recipe import Recipe
    from gistrec.train import Model

    values = read_toml(run)
    try:
        codec = str(codecs.parse(values["codec"]))
        data, min_events = values["data"], values["min_events"]
        folder = Path(values["plan"]["model"])
    except KeyError as missing:
        raise ConfigError(
            f"{run} does not say its {missing.args[0]}: give a run file of `gistrec plan`, or "
            "train it (`gistrec train --run`) and give --model"
        ) from None
    model, recipe = Model.load(folder), folder / "recipe"
    if model.training.holdout > 1:
        work.note(
            f"{folder} has not learned each user's last {model.training.holdout} targets: "
            f"for the final model, gistrec train --run {run}"
        )
    if not recipe.exists():
        dataset = dataset_of(data, min_events, work)
        with work.waiting(f"fitting {codec}"):
            fit_recipe(model, dataset, codec).save(recipe)
    elif (before := Recipe.load(recipe).manifest.codec) != codec:
        raise ConfigError(
            f"{folder} keeps states as {before}, not as {codec}: serve it with --model, or change "
            f'it: gistrec state fit --model {folder} --codec "{codec}" --data "{data}"'
        )
    return folder

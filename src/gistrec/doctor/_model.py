"""Whether a model folder can be used, and its recipe with it."""

from pathlib import Path

from gistrec.doctor._check import Check, attempt
from gistrec.recipe import Recipe
from gistrec.served import version_in
from gistrec.train import Model


def check_model(folder: Path) -> tuple[list[Check], tuple[Model, Recipe] | None]:
    """Look at a model folder; the model with its recipe, if both can be used."""
    if (folder / "checkpoint.safetensors").exists() and not (folder / "model.json").exists():
        told = "its training is not finished: give the same `gistrec train` again, it goes on"
        return [Check("model", "broken", f"{folder}: {told}")], None
    checks = [attempt("model", lambda: _model(folder))]
    found: list[tuple[Model, Recipe]] = []

    def recipe() -> str | Check:
        found.append(version_in(folder))
        recipe = found[0][1]
        if not (folder / "recipe").exists():
            told = "none, states are kept uncompressed: choose one with `gistrec plan`, or fit "
            return Check("recipe", "warning", f"{told}one with `gistrec state fit`")
        return f"{recipe.chain}, {recipe.shared_bytes:,} bytes shared by all users"

    if checks[0].status == "ok":
        checks.append(attempt("recipe", recipe))
    return checks, found[0] if found else None


def _model(folder: Path) -> str:
    model = Model.load(folder)
    return (
        f"{model.backbone.spec}, {len(model.items):,} items, "
        f"fingerprint {model.backbone.fingerprint()}"
    )

"""`gistrec train`: fit a model to a log, and a recipe to the model."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from gistrec.cli._output import PARAMETER, Work
from gistrec.cli._settings import TrainingSettings, dataset_of, read_toml, run_of, trained


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take the options that were not given from the file that --config names."""
    for option in arguments:
        if option.name == "--config" and option.tokens:
            path = Path(option.tokens[0].value)
            values = read_toml(path)
            for facts in ("log", "plan"):  # tables that a run file holds, no options
                values.pop(facts, None)
            Dict({"train": values}, source=str(path))(app, commands, arguments)


app = App(name="train", config=_from_file, default_parameter=PARAMETER)


@app.default
def train(
    *,
    data: str,
    backbone: str = "hstu()",
    out: Path,
    epochs: int = 30,
    holdout: int = 1,
    min_events: int = 5,
    codec: str | None = None,
    log_to: str | None = None,
    config: Annotated[Path | None, Parameter(name=["--config", "--run"])] = None,
    settings: TrainingSettings = TrainingSettings(),
    work: Work = Work(),
) -> None:
    """Train a model on a log.

    In the end it says how accurate the model is on what was held out. A killed training is
    continued by the same command. Several processes train together behind
    `torchrun --nproc-per-node 2 -m`.

    Args:
        data: Log: a file, a MovieLens folder, or a spec such as "csv(path='log.csv', user='uid')".
        backbone: Architecture with its options, see `gistrec methods --family backbones`.
        out: Model folder to write.
        epochs: Passes over the log.
        holdout: Targets per user left out of training and then predicted: 1 for the final fit, 2 to
            choose settings without a look at the last target, 0 to train on everything.
        min_events: Users with fewer events are left out.
        codec: Codecs that states are stored with; fitted and saved in the model folder.
        log_to: Tell the training to mlflow (at MLFLOW_TRACKING_URI) or to
            "tensorboard(folder='runs')"; pip install "gistrec[mlflow]" or "gistrec[tensorboard]".
        config: TOML file with options of this command (`learning_rate = 0.001`), such as a run file
            of `gistrec plan` or a model's run.toml; flags override it.
    """
    from gistrec import codecs, metrics, torchrun
    from gistrec.build import fit_recipe
    from gistrec.evaluate import evaluate
    from gistrec.trackers import steps_to, tracker

    if codec is not None:
        codec = str(codecs.parse(codec))  # wrong ones are told before the training
    told = None if log_to is None or torchrun.rank() else tracker(log_to)
    dataset = dataset_of(data, min_events, work)
    run = run_of(dataset, backbone, settings, epochs=epochs, holdout=holdout)
    about = {"data": data, "min_events": min_events, "codec": codec}
    with nullcontext() if told is None else told.run(out.name, about | run) as log:
        model = trained(dataset, run, out, work, also=log and steps_to(log), **about)
        if torchrun.rank():
            return  # the first of the processes goes on
        if codec is not None:
            with work.waiting(f"fitting {codec}"):
                fit_recipe(model, dataset, codec).save(out / "recipe")
        document: dict[str, Any] = {
            "model": str(out),
            "backbone": run["backbone"],
            "codec": codec,
            "train_seconds": model.seconds,
        }
        text = f"{out}: {run['backbone']}" + (f", states as {codec}" if codec else "")
        if holdout:
            split = dataset.split(settings.scheme, holdout=holdout - 1)
            with work.waiting("measuring accuracy on what was held out"):
                found = evaluate(model.backbone, dataset, split, scheme=settings.scheme)
            low, high = metrics.interval(found["ndcg_10"])
            means = {name: float(values.mean()) for name, values in found.items()}
            if log is not None:
                log(means, 0)
            document |= {**means, "interval": (low, high), "users": len(split)}
            text += (
                f"\nNDCG@10 {document['ndcg_10']:.4f} ({low:.4f} to {high:.4f}), "
                f"HR@10 {document['hr_10']:.4f}, {len(split):,} users, whole catalogue ranked"
            )
    work.show(document, f"{text}\nserve it: gistrec serve --model {out}")

"""`gistrec train`: fit a model to a log, and a recipe to the model."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from gistrec.cli._output import MARKDOWN, PARAMETER, Work
from gistrec.cli._settings import (
    MIN_EVENTS,
    TrainingSettings,
    data_of,
    read_toml,
    run_of,
    trained,
)

if TYPE_CHECKING:
    from gistrec.dataset import Dataset
    from gistrec.impressions import Impressions, Part
    from gistrec.train import Model


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take the options that were not given from the file that --config names."""
    for option in arguments:
        if option.name == "--config" and option.tokens:
            path = Path(option.tokens[0].value)
            values = read_toml(path)
            for facts in ("log", "plan"):  # tables that a run file holds, no options
                values.pop(facts, None)
            Dict({"train": values}, source=str(path))(app, commands, arguments)


app = App(name="train", config=_from_file, default_parameter=PARAMETER, **MARKDOWN)


@app.default
def train(
    *,
    data: str,
    backbone: str = "hstu()",
    out: Path,
    epochs: int = 30,
    holdout: int = 1,
    min_events: int = MIN_EVENTS,
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
            Or impressions with labels, such as "labelled(path='log.parquet', label='is_click')",
            for a ranker.
        backbone: Architecture with its options, see `gistrec methods --family backbones`; for
            impressions a ranker, such as "twin()".
        out: Model folder to write.
        epochs: Passes over the log.
        holdout: Targets per user left out of training and then predicted: 1 for the final fit, 2 to
            choose settings without a look at the last target, 0 to train on everything. Of
            impressions the newest 10 % in time are the test and the 10 % before them validation:
            1 measures both, 2 only validation.
        min_events: Users with fewer events are left out.
        codec: Codecs that states are stored with; fitted and saved in the model folder.
        log_to: Tell the training to mlflow (at MLFLOW_TRACKING_URI) or to
            "tensorboard(folder='runs')"; pip install "gistrec[mlflow]" or "gistrec[tensorboard]".
        config: TOML file with options of this command (`learning_rate = 0.001`), such as a run file
            of `gistrec plan` or a model's run.toml; flags override it.
    """
    from gistrec import codecs, torchrun
    from gistrec.build import fit_recipe
    from gistrec.impressions import Impressions
    from gistrec.trackers import steps_to, tracker

    if codec is not None:
        codec = str(codecs.parse(codec))  # wrong ones are told before the training
    told = None if log_to is None or torchrun.rank() else tracker(log_to)
    dataset = data_of(data, min_events, work)
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
            with work.waiting("measuring accuracy on what was held out"):
                if isinstance(dataset, Impressions):
                    found, means, said = _of_ranker(model, dataset, holdout)
                else:
                    found, means, said = _of_next_items(model, dataset, holdout)
            if log is not None:
                log(means, 0)
            document, text = document | found, f"{text}\n{said}"
    work.show(document, f"{text}\nserve it: gistrec serve --model {out}")


def _of_ranker(
    model: "Model", impressions: "Impressions", holdout: int
) -> tuple[dict[str, Any], dict[str, float], str]:
    """Figures of each part, the plain ones among them, and a sentence for each."""
    from gistrec import ranking

    longest = max(int(impressions.lengths.max()), 2)
    rows: dict[str, Any] = {}
    means: dict[str, float] = {}
    lines = []
    parts: tuple[Part, ...] = ("validation", "test") if holdout == 1 else ("validation",)
    for part in parts:
        numbers = impressions.part(part)
        logit_NT = ranking.logits(model.backbone, impressions, numbers, max_len=longest)
        rows[part] = row = ranking.every_label(impressions, numbers, logit_NT)
        means |= {f"{part}_{name}": row[name] for name in ("auc", "gauc", "logloss")}
        low, high = row["auc_interval"]
        lines.append(
            f"{part}: AUC {row['auc']:.4f} ({low:.4f} to {high:.4f}), GAUC {row['gauc']:.4f}, "
            f"logloss {row['logloss']:.4f}, {row['impressions']:,} impressions of "
            f"{row['users']:,} users, label {row['label']}"
        )
    return rows, means, "\n".join(lines)


def _of_next_items(
    model: "Model", dataset: "Dataset", holdout: int
) -> tuple[dict[str, Any], dict[str, float], str]:
    from gistrec import metrics
    from gistrec.evaluate import evaluate

    scheme = model.training.scheme
    split = dataset.split(scheme, holdout=holdout - 1)
    found = evaluate(model.backbone, dataset, split, scheme=scheme)
    low, high = metrics.interval(found["ndcg_10"])
    means = {name: float(values.mean()) for name, values in found.items()}
    said = (
        f"NDCG@10 {means['ndcg_10']:.4f} ({low:.4f} to {high:.4f}), "
        f"HR@10 {means['hr_10']:.4f}, {len(split):,} users, whole catalogue ranked"
    )
    return {**means, "interval": (low, high), "users": len(split)}, means, said

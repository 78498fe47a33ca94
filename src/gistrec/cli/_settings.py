"""Options that several verbs have, and the model that they train or find."""

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from gistrec.cli._output import Work
from gistrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gistrec.dataset import Dataset
    from gistrec.impressions import Impressions
    from gistrec.train import Model, Progress

RUN_FILE = "run.toml"
MIN_EVENTS = 5
"""Users with fewer events are left out."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How `train` and `bench` train; the defaults are those of `gistrec.train.Training`."""

    scheme: Literal["leave_last_out", "last_basket"] = "leave_last_out"
    """What is predicted: each user's last event, or the last basket (events of one time)."""
    learning_rate: float = 2e-3
    """Peak of the schedule."""
    batch_tokens: int = 6400
    """Events per step, padding included."""
    max_len: int = 1024
    """Longest training window, in events."""
    seed: int = 0
    """Seed of weights, order and dropout."""


def dataset_of(data: str, min_events: int, work: Work) -> "Dataset":
    """The data set of a `--data` option.

    Raises:
        ConfigError: it names impressions.
    """
    from gistrec import impressions
    from gistrec.dataset import Dataset
    from gistrec.events import read

    if impressions.is_source(data):
        raise ConfigError(f"{data} names impressions, of rankers; this takes a log of events")
    with work.waiting(f"reading {data}"):
        return Dataset.from_events(read(data), min_events=min_events)


def data_of(data: str, min_events: int, work: Work) -> "Dataset | Impressions":
    """The data set of a `--data` option, or its impressions, of which all users are taken.

    Raises:
        ConfigError: `min_events` of impressions.
    """
    from gistrec import impressions

    if not impressions.is_source(data):
        return dataset_of(data, min_events, work)
    if min_events != MIN_EVENTS:
        raise ConfigError("--min-events is of logs; impressions are taken as they are")
    with work.waiting(f"reading {data}"):
        return impressions.read(data)


def read_toml(path: Path) -> dict[str, Any]:
    """A run file.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def write_run(path: Path, run: dict[str, Any]) -> None:
    """A run file: what `gistrec train` is to be given, and facts about it in tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_toml(run), encoding="utf-8")


def name_of(data: str) -> str:
    """What result rows call a log: its file or folder, without the way to it; else its spec."""
    from gistrec.registry import parse_spec

    if "(" not in data:
        return Path(data).name
    options = parse_spec(data)[0].options
    path = options.get("path", options.get("log"))
    return Path(path).name if isinstance(path, str) and "(" not in path else data


def run_of(
    data: "Dataset | Impressions",
    backbone: str,
    settings: TrainingSettings,
    *,
    epochs: int,
    holdout: int,
) -> dict[str, Any]:
    """What decides a training's result, to be told from other runs."""
    from gistrec.impressions import Impressions
    from gistrec.registry import parse_spec

    digest = hashlib.sha256()
    columns: list[Any] = []
    dataset = data.dataset if isinstance(data, Impressions) else data
    if isinstance(data, Impressions):
        columns += [data.item_index, data.history_end, data.label_NT, data.context_NC]
        columns += [data.feature_VF]
    columns += [dataset.items.ids.astype(str), dataset.offsets]
    for column in (*columns, dataset.item_index, dataset.timestamp):
        digest.update(column.tobytes())
    return {
        "backbone": " | ".join(map(str, parse_spec(backbone))),
        "epochs": epochs,
        "holdout": holdout,
        **dataclasses.asdict(settings),
        "log": {  # of impressions, their histories
            "users": dataset.num_users,
            "items": dataset.num_items,
            "events": len(dataset.timestamp),
            "sha256": digest.hexdigest(),
        },
    }


def trained(
    dataset: "Dataset | Impressions",
    run: dict[str, Any],
    folder: Path,
    work: Work,
    *,
    also: "Callable[[Progress], None] | None" = None,
    **about: Any,
) -> "Model":
    """The model of a run: trained, or its training resumed, or as it is found in the folder.

    Args:
        dataset: What to train on.
        run: As `run_of` gives it.
        folder: The model folder. `run.toml` beside the model says what the run was.
        work: Where progress goes.
        also: Told of the progress, too.
        **about: More that `run.toml` should say.

    Raises:
        ConfigError: the folder holds another run.
    """
    from gistrec.train import Model, train

    begun = (folder / "checkpoint.safetensors").exists()
    finished = (folder / "model.json").exists()
    if begun or finished:
        _check_same(folder, run)
    if finished:
        work.note(f"{folder} holds this model already: it is not trained again")
        return Model.load(folder)
    if begun:
        work.note(f"{folder} holds a part of this training: it is continued")
    write_run(folder / RUN_FILE, about | run)
    settings = {name: value for name, value in run.items() if name not in ("backbone", "log")}
    with work.progress("", "{task.fields[now]}") as progress:
        bar = progress.add_task("training", total=1.0, now="")

        def report(at: "Progress") -> None:
            now = f"loss {at.loss:.4f}, {at.tokens_per_s:,.0f} events/s"
            progress.update(bar, completed=at.fraction, now=now)
            if also is not None:
                also(at)

        return train(dataset, run["backbone"], folder=folder, report=report, **settings)


def _check_same(folder: Path, run: dict[str, Any]) -> None:
    path = folder / RUN_FILE
    if not path.exists():
        raise ConfigError(f"{folder} holds a model, but no {RUN_FILE}: give another folder")
    before = read_toml(path)
    differs = [
        "another log" if key == "log" else f"{key} {before.get(key)!r}, not {value!r}"
        for key, value in run.items()
        if before.get(key) != value
    ]
    if differs:
        raise ConfigError(
            f"{folder} holds another training ({'; '.join(differs)}): give another folder, or "
            "remove this one"
        )


def _toml(run: dict[str, Any]) -> str:
    """A run as TOML, tables last; a JSON string or number is one of TOML, too."""
    plain = {k: v for k, v in run.items() if v is not None and not isinstance(v, dict)}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for name, table in run.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", _toml(table).rstrip()]
    return "\n".join(lines) + "\n"

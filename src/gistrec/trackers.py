"""Trainings and measured rows, told to MLflow or TensorBoard where these are installed.

with tracker("tensorboard(folder='runs')").run("small", {"epochs": 3}) as log:
    train(dataset, epochs=3, report=steps_to(log))
"""

import contextlib
import hashlib
import inspect
import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gistrec.errors import ConfigError
from gistrec.registry import parse_spec
from gistrec.results import Row
from gistrec.train import Progress

Log = Callable[[Mapping[str, float], int], None]
"""Called with numbers by name, and the step that they are of."""
_KEY = "gistrec.key"


class Tracker(ABC):
    """Where runs are told."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is a run of this key."""

    @abstractmethod
    def run(
        self, name: str, params: Mapping[str, Any], *, key: str = ""
    ) -> AbstractContextManager[Log]:
        """Begin a run, or go on with the one of this key.

        Args:
            name: For people.
            params: What was asked for.
            key: Tells it from other runs; "" is that of the name and the parameters.

        Raises:
            ConfigError: the tracker can't be reached.
        """


def tracker(spec: str) -> Tracker:
    """The tracker of a spec: `mlflow`, `tensorboard(folder='runs')`.

    Raises:
        ConfigError: unknown, or not installed.
    """
    parts = parse_spec(spec)
    made = _TRACKERS.get(parts[0].name)
    if made is None or len(parts) != 1:
        raise ConfigError(f"unknown tracker {spec!r}: allowed: {', '.join(_TRACKERS)}")
    allowed = inspect.signature(made).parameters
    if unknown := parts[0].options.keys() - allowed.keys():
        raise ConfigError(
            f"{parts[0].name} has no option {sorted(unknown)[0]!r}: allowed: {', '.join(allowed)}"
        )
    try:
        return made(**parts[0].options)
    except ImportError as error:
        raise ConfigError(
            f'{parts[0].name} is not installed ({error}): pip install "gistrec[{parts[0].name}]"'
        ) from None


def steps_to(log: Log) -> Callable[[Progress], None]:
    """A `report` of `train` that tells the loss and the rate, every tenth step and the last."""

    def report(at: Progress) -> None:
        if at.step % 10 == 0 or at.fraction == 1:
            log({"loss": at.loss, "events_per_s": at.tokens_per_s}, at.step)

    return report


def push(rows: Sequence[Row], to: Tracker, *, report: Callable[[], None] | None = None) -> int:
    """Tell a benchmark's rows, a run each, but for those that are there; how many were new.

    Args:
        rows: As loaded.
        to: Where.
        report: Called after every row.
    """
    told = 0
    for row in rows:
        key = _digest(row)
        if not to.has(key):
            numbers = {n: v for n, v in row.items() if _is_number(v) and n not in _ASKED_FOR}
            name = " ".join(str(row[n]) for n in ("data", "kind", "codec") if row.get(n))
            params = {n: row[n] for n in _ASKED_FOR if row.get(n) is not None}
            with to.run(name, params, key=key) as log:
                log(numbers, 0)
            told += 1
        if report is not None:
            report()
    return told


_ASKED_FOR = (
    *("data", "split", "kind", "backbone", "codec", "recipe", "budget_bytes", "seed", "online"),
    *("commit", "date"),
)
"""What of a row are parameters; its other numbers are metrics."""


class _MLflow(Tracker):
    """MLflow at MLFLOW_TRACKING_URI; without one, where MLflow keeps runs by itself."""

    def __init__(self, experiment: str = "") -> None:
        import mlflow

        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "gistrec"
        with self._telling():
            found = self._client.get_experiment_by_name(name)
            self._experiment = (
                found.experiment_id if found else self._client.create_experiment(name)
            )

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except self._mlflow.exceptions.MlflowException as error:
            raise ConfigError(
                f"MLflow at {self._mlflow.get_tracking_uri()} can't be told: "
                f"{str(error).splitlines()[0]}; set MLFLOW_TRACKING_URI to a server or to "
                "sqlite:///mlflow.db"
            ) from None

    def _found(self, key: str) -> str | None:
        query = f"tags.`{_KEY}` = '{key}'"
        with self._telling():
            runs = self._client.search_runs([self._experiment], query, max_results=1)
        return runs[0].info.run_id if runs else None

    def has(self, key: str) -> bool:
        return self._found(key) is not None

    @contextlib.contextmanager
    def run(self, name: str, params: Mapping[str, Any], *, key: str = "") -> Iterator[Log]:
        from mlflow.entities import Metric, Param

        key = key or _digest([name, params])
        run_id = self._found(key)
        with self._telling():
            if run_id is None:
                tags = {_KEY: key}
                made = self._client.create_run(self._experiment, run_name=name, tags=tags)
                run_id = made.info.run_id
                given = [Param(n, str(v)) for n, v in params.items()]
                self._client.log_batch(run_id, params=given)

        def log(numbers: Mapping[str, float], step: int) -> None:
            now = int(time.time() * 1000)
            batch = [Metric(n, float(v), now, step) for n, v in numbers.items()]
            with self._telling():
                self._client.log_batch(run_id, metrics=batch)

        status = "FAILED"
        try:
            yield log
            status = "FINISHED"
        finally:
            with self._telling():
                self._client.set_terminated(run_id, status)


class _TensorBoard(Tracker):
    """TensorBoard's event files: a folder for each run, named by it and its key."""

    def __init__(self, folder: str = "runs") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter
        self._folder = Path(folder)

    def has(self, key: str) -> bool:
        return any(self._folder.glob(f"*-{key}"))

    @contextlib.contextmanager
    def run(self, name: str, params: Mapping[str, Any], *, key: str = "") -> Iterator[Log]:
        key = key or _digest([name, params])
        plain = re.sub(r"[^\w.]+", "_", name)[:80].strip("_")
        written = self._folder / f"{plain}-{key}"
        given = {n: v if isinstance(v, bool | int | float) else str(v) for n, v in params.items()}
        newest: dict[str, float] = {}
        at = 0
        with self._writer(str(written)) as writer:

            def log(numbers: Mapping[str, float], step: int) -> None:
                nonlocal at
                at = step
                newest.update(numbers)
                for n, v in numbers.items():
                    writer.add_scalar(n, float(v), step)

            yield log
            writer.add_hparams(given, newest, run_name=".", global_step=at)


_TRACKERS: dict[str, type[_MLflow] | type[_TensorBoard]] = {
    "mlflow": _MLflow,
    "tensorboard": _TensorBoard,
}


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

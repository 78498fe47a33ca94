"""A recipe for a model, and the states of all users of a store, ahead of serving that model.

States are built from the histories in the store, many users in a batch, by several processes or,
with Ray, on several machines. A user whose state is there and up to the history is skipped, so a
run that was killed goes on where it was, and servers may go on meanwhile: who is faster is not
overwritten.

Cost: every worker holds a model and a batch of users.
"""

import itertools
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from gistrec import codecs, rank_measure
from gistrec.dataset import Dataset
from gistrec.errors import ConfigError, GistrecError, StateError
from gistrec.history_log import HistoryLog
from gistrec.impressions import Impressions
from gistrec.measure import Rules, Subject
from gistrec.recipe import Recipe
from gistrec.recommender import Recommender
from gistrec.stores import open_store
from gistrec.train import Model

Engine = Literal["processes", "ray"]
_USERS_PER_TASK = 256
_TASKS_PER_WORKER = 2
"""One at work and one that waits, so that no worker waits for the next."""

log = logging.getLogger(__name__)


def fit_recipe(
    model: Model, dataset: Dataset | Impressions, codec: str, *, users: int = 256
) -> Recipe:
    """A recipe for a model, fitted on the states of some users of its log.

    Args:
        model: Who writes the states.
        dataset: The log or the impressions that it was trained on; the test part is left out.
        codec: Spec of the codecs, for example `"recent(keep=64) | rvq()"`.
        users: How many, drawn at random (always the same ones).

    Raises:
        DataError: the log's items are not the model's. ConfigError, CodecError: a wrong codec.
    """
    if isinstance(dataset, Impressions):
        return rank_measure.fit_recipe(model, dataset, codecs.parse(codec), users=users)
    return Subject(model, dataset, Rules(fit_users=users)).fit(codecs.parse(codec))


class Part(NamedTuple):
    """What became of some users."""

    users: int = 0
    """Users whose state was built."""
    events: int = 0
    """Events of their histories."""
    current: int = 0
    """Users whose state was there already, or was written by a server meanwhile."""
    damaged: int = 0
    """Users whose history can't be read; each is named in a warning."""
    unknown: int = 0
    """Events of items that the model does not know, among `events`; it does not see them."""

    def plus(self, other: "Part") -> "Part":
        """Of both."""
        return Part(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def total(self) -> int:
        """All users that were looked at."""
        return self.users + self.current + self.damaged


class Builder:
    """Builds states in one process; every worker has one.

    Args:
        recommender: Whose model writes the states, and whose store they go to.
        batch_tokens: Events per batch, padding included.
    """

    def __init__(self, recommender: Recommender, *, batch_tokens: int = 65_536) -> None:
        self._recommender = recommender
        self._batch_tokens = batch_tokens

    def build(self, user_ids: Sequence[str]) -> Part:
        """Build the states of users that are missing, behind or unreadable."""
        states, history = self._recommender.states, self._recommender.log
        lengths = history.lengths(user_ids)
        stored = states.read_many(user_ids)
        due = [
            (length, user_id, found.version)
            for user_id, length, found in zip(user_ids, lengths, stored, strict=True)
            if length is None or length != states.covered(found)
        ]
        done = Part(current=len(user_ids) - len(due))
        # users of like length together: a batch is as long as its longest history
        due.sort(key=lambda entry: -(entry[0] or 0))
        while due:
            size = max(1, min(256, self._batch_tokens // max(1, due[0][0] or 1)))
            done = done.plus(self._built(due[:size]))
            due = due[size:]
        return done

    def _built(self, due: Sequence[tuple[int | None, str, int]]) -> Part:
        served = self._recommender.served
        logged, damaged = [], 0
        for _, user_id, version in due:
            try:
                logged.append((user_id, version, served.log.read(user_id)))
            except StateError as error:
                log.warning("skipped: %s", error)
                damaged += 1
        histories = [served.history(events) for _, _, events in logged]
        if not histories:
            return Part(damaged=damaged)
        states = served.backbone.append([served.empty] * len(histories), histories)
        counts = [len(events.timestamp) for _, _, events in logged]
        saved = served.states.save_many(
            [
                (user_id, state.replace(state.tensors, length=count), version)
                for (user_id, version, _), state, count in zip(logged, states, counts, strict=True)
            ]
        )
        new = {
            user_id: count
            for (user_id, version, _), count, done in zip(logged, counts, saved, strict=True)
            if done and not version
        }
        served.drop_forgotten(new)
        events = sum(itertools.compress(counts, saved))
        seen = sum(itertools.compress([len(h.timestamp) for h in histories], saved))
        return Part(sum(saved), events, len(saved) - sum(saved), damaged, events - seen)


def build_all(
    model: str | Path,
    store: str,
    *,
    workers: int = 1,
    engine: Engine = "processes",
    report: Callable[[Part], None] | None = None,
) -> Part:
    """Build the state of every user who has a history in a store.

    Args:
        model: Folder of the new model.
        store: URL of the store, which all workers reach.
        workers: How many build at once.
        engine: `processes` of this machine, or `ray`: workers of the Ray cluster that RAY_ADDRESS
            names, or of this machine if it names none. They need gistrec installed; the model is
            sent to them.
        report: Called now and then with what was done so far.

    Raises:
        ConfigError: the workers could not share the store, or Ray is not installed.
        GistrecError: a worker died; run it again to go on.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, given {workers}")
    if (workers > 1 or engine == "ray") and store.lower().startswith("ram:"):
        raise ConfigError(
            f"{workers} workers would each have users of their own in {store}: give lmdb://folder "
            "or redis://host:6379/0"
        )
    done = Part()
    with open_store(store) as opened, _WORKERS[engine](Path(model), store, workers) as submit:
        users = HistoryLog(opened).users()
        tasks = iter(lambda: list(itertools.islice(users, _USERS_PER_TASK)), [])
        for part in _results(submit, tasks, workers * _TASKS_PER_WORKER if workers > 1 else 1):
            done = done.plus(part)
            if report is not None:
                report(done)
    return done


Submit = Callable[[list[str]], "Future[Part]"]


def _results(submit: Submit, tasks: Iterable[list[str]], at_once: int) -> Iterator[Part]:
    """The results of tasks in the order in which they are ready; few tasks are known at a time."""
    tasks = iter(tasks)
    running = {submit(task) for task in itertools.islice(tasks, at_once)}
    try:
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
            running |= {submit(task) for task in itertools.islice(tasks, len(ready))}
    except BrokenProcessPool:
        raise GistrecError(
            "a worker process ended before its work did (killed, or out of memory): run it again "
            "to go on, with fewer workers if memory is short"
        ) from None
    finally:
        for future in running:
            future.cancel()


_builder: Builder | None = None
"""Of this worker process."""


def _begin(model: Path, store: str, threads: int) -> None:
    global _builder
    torch.set_num_threads(threads)
    _builder = Builder(Recommender.load(model, store=store))


def _build(user_ids: list[str]) -> Part:
    assert _builder is not None  # noqa: S101  # the pool began with `_begin`
    return _builder.build(user_ids)


@contextmanager
def _processes(model: Path, store: str, workers: int) -> Iterator[Submit]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    if workers == 1:
        with Recommender.load(model, store=store) as recommender:
            builder = Builder(recommender)
            yield lambda users: _at_once(builder, users)
        return
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),  # neither PyTorch nor lmdb survive a fork
        _begin,
        (model, store, threads),
    )
    try:
        yield lambda users: pool.submit(_build, users)
    finally:
        pool.shutdown(cancel_futures=True)


def _at_once(builder: Builder, users: list[str]) -> "Future[Part]":
    future: Future[Part] = Future()
    future.set_result(builder.build(users))
    return future


@contextmanager
def _ray(model: Path, store: str, workers: int) -> Iterator[Submit]:
    try:
        import ray
    except ImportError as missing:
        raise ConfigError(
            f'the engine ray needs {missing.name}, not installed: run pip install "gistrec[ray]"'
        ) from missing
    began = not ray.is_initialized()
    if began:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        files = ray.put(_files_of(model))
        actor = ray.remote(num_cpus=1)(_Sent)
        actors = itertools.cycle([actor.remote(files, store) for _ in range(workers)])
        yield lambda users: next(actors).build.remote(users).future()
    finally:
        if began:
            ray.shutdown()


class _Sent:
    """A `Builder` on another machine, where the model's folder is not."""

    def __init__(self, files: Mapping[str, bytes], store: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            torch.set_num_threads(1)
            self._builder = Builder(Recommender.load(folder, store=store))

    def build(self, users: list[str]) -> Part:
        return self._builder.build(users)


def _files_of(model: Path) -> dict[str, bytes]:
    """What a model folder must have; it may have checkpoints and more."""
    with tempfile.TemporaryDirectory() as folder, Recommender.load(model) as recommender:
        recommender.save(folder)
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


_WORKERS: Mapping[Engine, Any] = {"processes": _processes, "ray": _ray}

"""Several worker processes on one socket, and the one that watches over them.

Each process opens the model and the store by itself; the weights are mapped from the model folder,
so one copy serves all. The kernel hands new connections to whichever is waiting. One that dies is
replaced. If the watching process dies, they end in order.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from gistrec.errors import GistrecError
from gistrec.server.metrics import FOLDER

_PAUSE_S = 1.0
"""Between the end of a worker and the start of the one that takes its place."""

log = logging.getLogger(__name__)


class WorkerError(GistrecError):
    """A worker process ended before it was ready."""


def supervise(
    run: Callable[..., None],
    arguments: tuple[Any, ...],
    count: int,
    *,
    ready: Callable[[], None],
    ending: Callable[[], None],
    patience_s: float,
) -> None:
    """Keep worker processes running until SIGINT or SIGTERM, then let them finish.

    Args:
        run: What a worker does: called with the arguments, a function to be called when it is
            ready, and one that takes what stops it. Must pickle, as the arguments must.
        arguments: Of `run`.
        count: How many workers.
        ready: Called once, when all of them are ready.
        ending: Called when they are told to finish.
        patience_s: How long they may take for that; who takes longer is killed.

    Raises:
        GistrecError: a worker could not start; the same error.
    """
    told_to_end = False

    def end(sig: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True

    previous = {sig: signal.signal(sig, end) for sig in (signal.SIGINT, signal.SIGTERM)}
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="gistrec-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            workers = [_Worker(run, arguments) for _ in range(count)]
            announced = False
            while not told_to_end:
                wait([part for worker in workers for part in worker.parts()], timeout=0.2)
                for place, worker in enumerate(workers):
                    worker.look()
                    if worker.process.is_alive():
                        continue
                    if not announced:
                        raise worker.error or WorkerError(
                            f"a worker process ended with code {worker.process.exitcode} before it "
                            "was ready: its own lines above may say why"
                        )
                    if worker.replaced_at is None:
                        log.error(
                            "a worker process ended with code %s: another one takes its place",
                            worker.process.exitcode,
                        )
                        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
                        worker.replaced_at = time.monotonic() + _PAUSE_S
                    elif time.monotonic() >= worker.replaced_at:
                        workers[place] = _Worker(run, arguments)
                if not announced and all(worker.ready for worker in workers):
                    announced = True
                    ready()
        finally:
            ending()
            for worker in workers:
                worker.end()
            deadline = time.monotonic() + patience_s
            for worker in workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
                worker.process.kill()
                worker.process.join()
            del os.environ[FOLDER]
            for sig, handler in previous.items():
                signal.signal(sig, handler)


class _Worker:
    """A worker process as the watching one sees it."""

    def __init__(self, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        # not forked: threads and an open lmdb do not survive that
        context = multiprocessing.get_context("spawn")
        self._said, says = context.Pipe(duplex=False)
        alive, self._alive = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=_work, args=(run, arguments, says, alive), name="gistrec worker"
        )
        self.process.start()
        says.close()
        alive.close()
        self.ready = False
        self.error: BaseException | None = None
        self.replaced_at: float | None = None
        """When another one takes its place, if it has ended."""

    def parts(self) -> list[Any]:
        """What changes when something happens."""
        if self.replaced_at is not None:
            return []
        return [self.process.sentinel] + ([] if self._said.closed else [self._said])

    def look(self) -> None:
        """Take in what the worker said."""
        try:
            while not self._said.closed and self._said.poll():
                said = self._said.recv()
                self.ready, self.error = said is None, said
        except EOFError:
            self._said.close()

    def end(self) -> None:
        """Ask it to finish; harmless if it has ended."""
        self._alive.close()


def _work(
    run: Callable[..., None], arguments: tuple[Any, ...], says: Connection, alive: Connection
) -> None:
    """A worker process."""

    def begun(stop: Callable[[], None]) -> None:
        threading.Thread(target=_until_closed, args=(alive, stop), daemon=True).start()

    # Ctrl-C reaches all processes of a terminal; the watching one decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(*arguments, lambda: says.send(None), begun)
    except Exception as error:
        says.send(error)


def _until_closed(alive: Connection, stop: Callable[[], None]) -> None:
    try:
        alive.recv()
    except (EOFError, OSError):
        stop()

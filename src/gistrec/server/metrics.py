"""Prometheus metrics: of the requests of all worker processes together, and of the store.

Worker processes write counters and histograms into files of a folder that they share, the way
of prometheus_client; any of them answers with the sums. What the store holds is the same for all.
"""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gistrec.recommender import Recommender
from gistrec.state_cache import CacheStats

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of the environment that names the folder; prometheus_client looks for it on import."""
_REQUEST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 30)
_STAGE_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
_FRESH_S = 60.0
T = TypeVar("T")
Later = Callable[[Callable[[], object]], object]
"""Runs a call in another thread."""


class Metrics:
    """Of one app; several apps of a process have metrics of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Histogram(
            "gistrec_request_seconds",
            "Time from receiving a request to having sent its answer.",
            ["route", "status"],
            registry=self._registry,
            buckets=_REQUEST_S,
        )
        self._stages = Histogram(
            "gistrec_stage_seconds",
            "Time of a stage of the recommender's work: load, decode, compute, store.",
            ["stage"],
            registry=self._registry,
            buckets=_STAGE_S,
        )
        self._found = Counter(
            "gistrec_state_loads",
            "How states were found: fresh, replayed, ...",
            ["found"],
            registry=self._registry,
        )
        self._rebuilds = Gauge(
            "gistrec_rebuilds",
            "Long rebuilds of states now: running, waiting.",
            ["state"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._rebuilding(0, 0)
        self._stored: CollectorRegistry | None = None
        self._counts: Callable[[], Mapping[str, int]] = dict
        self._counted: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def watch(self, recommender: Recommender, later: Later) -> None:
        """From now on, what this recommender does and holds.

        Args:
            recommender: Which.
            later: Runs something in another thread.
        """
        self._counts = lambda: dict(recommender.counts)
        recommender.on_stage = lambda stage, s: self._stages.labels(stage).observe(s)
        recommender.rebuilds.on_change = self._rebuilding
        self._stored = CollectorRegistry()
        self._stored.register(_Stored(recommender, later))

    def _rebuilding(self, running: int, waiting: int) -> None:
        self._rebuilds.labels("running").set(running)
        self._rebuilds.labels("waiting").set(waiting)

    def count(self) -> None:
        """Take over what the recommender has counted since."""
        with self._lock:
            for how, count in self._counts().items():
                if (new := count - self._counted[how]) > 0:
                    self._found.labels(how).inc(new)
                    self._counted[how] = count

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        self.count()
        registry = self._registry
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry) + (generate_latest(self._stored) if self._stored else b"")


class Fresh(Generic[T]):
    """What is looked up in the store. That reads every key, so it may be up to a minute old.

    Only who asks first waits for it.
    """

    def __init__(self, look_up: Callable[[], T], later: Later) -> None:
        self._look_up = look_up
        self._later = later
        self._lock = threading.Lock()
        self._found: T | None = None
        self._looked_up = 0.0

    def get(self) -> tuple[T, float]:
        """What was found, and how many seconds ago."""
        with self._lock:
            found = self._found or self._anew()
            age_s = time.monotonic() - self._looked_up
            if age_s > _FRESH_S:
                self._looked_up = time.monotonic()
                self._later(self._anew)
        return found, age_s

    def _anew(self) -> T:
        found = self._look_up()
        self._found, self._looked_up = found, time.monotonic()
        return found


class _Stored(Collector):
    """What the store holds of the version that serves."""

    def __init__(self, recommender: Recommender, later: Later) -> None:
        self._stats: Fresh[CacheStats] = Fresh(recommender.stats, later)

    def describe(self) -> list[Metric]:
        return []  # or registering would look it up

    def collect(self) -> Iterator[Metric]:
        found, _ = self._stats.get()
        yield GaugeMetricFamily("gistrec_users", "Users with a state.", found.users)
        yield GaugeMetricFamily(
            "gistrec_state_bytes", "Stored bytes of all states.", found.bytes_total
        )
        each = GaugeMetricFamily(
            "gistrec_user_state_bytes", "Stored bytes of a user's state.", labels=["quantile"]
        )
        each.add_metric(["0.5"], found.bytes_p50)
        each.add_metric(["0.99"], found.bytes_p99)
        yield each

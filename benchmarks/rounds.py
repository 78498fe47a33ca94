"""Functions timed side by side: they take turns, so that a slow moment hits all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np


def take_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    turn_s: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Each function's `ms_p50` and `ms_p99` over all calls, and how many `calls` there were.

    A turn is as many calls as fill `turn_s` seconds, at least one. What computes in one thread and
    waits for nothing may be timed by `time.thread_time`, which stands still while others run.
    """
    calls = {}
    for name, function in functions.items():
        function()  # compiles, allocates, fills caches
        start = clock()
        function()
        calls[name] = max(1, int(turn_s / (clock() - start)))
    taken: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, function in functions.items():
            for _ in range(calls[name]):
                start = clock()
                function()
                taken[name].append((clock() - start) * 1e3)
    gc.enable()
    return {
        name: {
            "ms_p50": float(np.percentile(ms, 50)),
            "ms_p99": float(np.percentile(ms, 99)),
            "calls": len(ms),
        }
        for name, ms in taken.items()
    }

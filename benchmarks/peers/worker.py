"""The other end of benchmarks/peers.py, in an environment of its own: calls what it is told to.

Needs nothing but Python: it runs where gistrec is not installed.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable

HISTORY, ITEMS, WIDTH, LAYERS, HEADS, K = 200, 10_000, 64, 2, 2, 100
SIZES = {"history": HISTORY, "items": ITEMS, "width": WIDTH, "layers": LAYERS, "k": K}
USERS = (1, 32)
POPULATION = 512


def serve(
    functions: dict[str, Callable[[], object]],
    versions: dict[str, str],
    about: dict[str, dict[str, int]] | None = None,
) -> None:
    """Answer requests {"call": name, "seconds": s, "clock": c} with the milliseconds of each call.

    All are called twice first; those that raise are reported and left out.

    Args:
        functions: By names `<library> <what>|<users>|<variant>`.
        versions: Of the libraries.
        about: By what is done, the sizes of it; those of this file without.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        failed = {}
        for name, function in list(functions.items()):
            try:
                function()
                function()
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                del functions[name]
        gc.collect()
        gc.freeze()
        gc.disable()
        told = {"names": list(functions), "failed": failed, "versions": versions}
        whats = {name.split("|")[0].partition(" ")[2] for name in functions}
        _answer(answers, told | {"about": about or dict.fromkeys(whats, SIZES)})
        for line in sys.stdin:
            asked = json.loads(line)
            _answer(answers, {"ms": _turn(functions[asked.pop("call")], **asked)})


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def _turn(function: Callable[[], object], seconds: float, clock: str) -> list[float]:
    now = CLOCKS[clock]
    taken, end = [], time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = now()
        function()
        taken.append((now() - start) * 1e3)
    gc.collect()
    return taken


def _answer(answers, found: dict) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()


def histories(count: int = POPULATION):
    """Each user's items, 200 different ones of 0..9,999: an int64 array (users, 200)."""
    import numpy as np

    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(ITEMS)[:HISTORY] for _ in range(count)])


def in_turn(
    call: Callable[[list[int]], object], users: int, count: int = POPULATION
) -> Callable[[], object]:
    """Call with the next so many users, in a random order: none is in a cache."""
    import numpy as np

    order, place = np.random.default_rng(1).permutation(count).tolist(), 0

    def following() -> object:
        nonlocal place
        place = (place + users) % count
        return call([order[(place + n) % count] for n in range(users)])

    return following

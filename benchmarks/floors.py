"""How near the kernels come to what one core can do: memory read once, arithmetic at its peak.

    make floors                 # three minutes; needs an idle machine and a C++ compiler

A kernel's floor is the larger of two times. `memory`: reading the same bytes, of the same users in
as random an order, by a loop that does nothing else. `arithmetic`: its multiplications and
additions at the processor's peak for their numbers, and its SiLUs as fast as a loop of nothing else
computes them. The share is the floor's median by the kernel's, all timed in turns, in the thread's
own time. States are those of more users than the caches hold: what a server meets. Rows go to
docs/results/floors.jsonl.
"""

import os

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # choose slower kernels than there are
    os.environ.pop(name, None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import ctypes
import itertools
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rounds import take_turns

from gistrec import backbones, integers, kernels, results
from gistrec.dataset import History
from gistrec.kernels.scan import Scan
from gistrec.state import UserState

ROOT = Path(__file__).parents[1]
WIDTH, HEADS, LAYERS, ITEMS = 64, 2, 4, 10_000
LENGTHS = (1024, 8192)
POOL_BYTES = 400 << 20
"""Of the states that are read in turn: more than any cache."""
PEAKS = ("fp32", "int8", "silu")
TIMES = 20_000
"""Passes of the loops that measure them."""
LEVELS = {"first cache": 16 << 10, "second cache": 512 << 10, "memory": 512 << 20}


class Memory:
    """What is read once."""

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self.parts = parts
        self.bytes = sum(part.nbytes for part in parts)
        self._address = np.array([part.data_ptr() for part in parts])
        self._size = np.array([part.nbytes for part in parts])
        self.given = self._address.ctypes.data, self._size.ctypes.data, len(parts)


@dataclass(frozen=True)
class Kernel:
    """A kernel at work on one size."""

    kernel: str
    shape: str
    run: Callable[[], object]
    memory: Iterator[Memory]
    """What a call reads, call by call."""
    operations: Mapping[str, float] = field(default_factory=dict)
    """By what peak of `PEAKS` they are bounded."""


def main(rounds: int = 7, turn_s: float = 0.3) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    limits = Limits()
    turns = partial(take_turns, rounds=rounds, turn_s=turn_s, clock=time.thread_time)
    bandwidth = limits.bandwidth(turns)
    for name, rate in bandwidth.items():
        print(f"{name:14} {rate / 1e9:8.1f} GB a second", flush=True)
    for kernel in itertools.chain(steps(), recomputes(), scans(), codings()):
        first = next(kernel.memory)
        loops = {name: limits.loops[name] for name in kernel.operations if name in limits.loops}
        read = {"memory": lambda k=kernel: limits.read(*next(k.memory).given)}
        timed = turns({"kernel": kernel.run} | read | loops)
        peak = {name: limits.count[name] / timed[name]["ms_p50"] * 1e3 for name in loops}
        floor_ms = {
            "memory": timed["memory"]["ms_p50"],
            "arithmetic": sum(kernel.operations[name] / peak[name] for name in loops) * 1e3,
        }
        bound = max(floor_ms, key=floor_ms.__getitem__)
        line = {
            "kind": "floors",
            "kernel": kernel.kernel,
            "shape": kernel.shape,
            "share": floor_ms[bound] / timed["kernel"]["ms_p50"],
            "bound": bound,
            "memory_ms": floor_ms["memory"],
            "arithmetic_ms": floor_ms["arithmetic"],
            **timed["kernel"],
            "bytes": first.bytes,
            "operations": kernel.operations,
            "peak_per_s": peak,
            "bytes_per_s": bandwidth,
            "rounds": rounds,
            "kernels": kernels.chosen(),
        }
        print(
            f"{kernel.kernel:22}{kernel.shape:27}{line['ms_p50']:10.4f} ms  "
            f"p99 {line['ms_p99']:9.4f}  memory {line['memory_ms']:8.4f}  "
            f"arithmetic {line['arithmetic_ms']:8.4f}  share {line['share']:4.0%}",
            *(f"{name} {rate / 1e9:.0f} G/s" for name, rate in peak.items()),
            flush=True,
        )
        results.append(ROOT / "docs/results/floors.jsonl", line | results.environment())


class Limits:
    """The loops of floors.cpp, compiled."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/limits.so"
            source = Path(__file__).with_suffix(".cpp")
            flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
            if platform.machine() == "x86_64":
                flags.append("-mprefer-vector-width=512")
            subprocess.run(["c++", *flags, f"-I{ROOT / 'native'}", "-o", out, source], check=True)
            self._library = ctypes.CDLL(out)
        for name in PEAKS:
            function = getattr(self._library, name)
            function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
        self._library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        counted = {name: getattr(self._library, name)(TIMES) for name in PEAKS}
        self.count = {name: n for name, n in counted.items() if n}
        """Operations of a loop; of those that are known for this processor."""
        self.loops = {name: partial(getattr(self._library, name), TIMES) for name in self.count}

        self.read = self._library.read_all

    def bandwidth(self, turns: partial) -> dict[str, float]:
        """Bytes a second of each level of `LEVELS`."""
        field = torch.ones(max(LEVELS.values()), dtype=torch.uint8)
        memory = {
            n: Memory([field[:size]] * max(1, (16 << 20) // size)) for n, size in LEVELS.items()
        }
        taken = turns({name: partial(self.read, *m.given) for name, m in memory.items()})
        return {name: m.bytes / taken[name]["ms_p50"] * 1e3 for name, m in memory.items()}


def steps() -> Iterator[Kernel]:
    """One event through all layers, over the states of users in turn."""
    for length in LENGTHS:
        backbone, states = population(length)
        stack = backbone._fused.stack()
        assert stack is not None, "the compiled core is not in use"
        memory = [Memory([rows for _, rows in state.slots()]) for state in states]
        turn = itertools.cycle(np.random.default_rng(1).permutation(len(states)).tolist())
        one = torch.tensor([5]), torch.tensor([1_700_000_000 + 3600 * length])

        def step(backbone=backbone, stack=stack, states=states, turn=turn, one=one) -> object:
            state, (item, time) = states[next(turn)], one
            return backbone._fused.run(stack, [state], [item], [time], [time], outputs=True)

        pairs = length * LAYERS
        yield Kernel(
            "append step fp32",
            f"{length} events",
            step,
            map(memory.__getitem__, turn),
            {"fp32": 4 * WIDTH * pairs + 10 * WIDTH**2 * LAYERS, "silu": pairs * HEADS},
        )


def recomputes() -> Iterator[Kernel]:
    """A state from a history's ids: blocked attention, no scores in memory."""
    for length in LENGTHS:
        backbone = network()
        history = history_of(length)
        pairs = length**2 / 2 * (LAYERS - 1)  # of the highest layer a state holds K and V alone
        yield Kernel(
            "recompute",
            f"{length} events",
            lambda backbone=backbone, history=history: backbone.prefill([history]),
            itertools.repeat(Memory([backbone.head.table.weight[:length]])),
            {
                "fp32": 4 * WIDTH * pairs + 10 * WIDTH**2 * length * LAYERS,
                "silu": pairs * HEADS,
            },
        )


def scans() -> Iterator[Kernel]:
    """The 100 best of a catalogue, exactly, by int8 codes."""
    rng = np.random.default_rng(0)
    query_BD = rng.normal(size=(32, WIDTH)).astype(np.float32)
    for items in (ITEMS, 1_000_000):
        row_VD = rng.normal(size=(items, WIDTH)).astype(np.float32)
        scan = Scan(row_VD)
        code = Memory([torch.ones(scan.nbytes, dtype=torch.uint8)])  # as many as the scan's own
        for users in (1, 32):
            yield Kernel(
                "catalogue scan int8",
                f"{items:,} items, {users} user{'s' * (users > 1)}",
                lambda scan=scan, some_BD=query_BD[:users]: scan.top_k(some_BD, 100),
                itertools.repeat(code),
                {"int8": 2.0 * items * WIDTH * users},
            )


def codings() -> Iterator[Kernel]:
    """A history's item ids and times to the bytes of the log, and back."""
    rng = np.random.default_rng(0)
    for count in (64, 8192):
        both = {
            "items": rng.integers(0, ITEMS, count),
            "times": 1_700_000_000 + np.cumsum(rng.exponential(3600, count).astype(np.int64)),
        }
        coded = {name: integers.encode(values) for name, values in both.items()}
        plain = Memory([torch.from_numpy(values) for values in both.values()])

        def write(both=both) -> object:
            return [integers.encode(values) for values in both.values()]

        def read(coded=coded, count=count) -> object:
            return [integers.Reader(data).ints(count) for data in coded.values()]

        for name, run in (("log coding", write), ("log decoding", read)):
            yield Kernel(name, f"{count} events", run, itertools.repeat(plain))


def network() -> backbones.Backbone:
    torch.manual_seed(0)
    spec = f"hstu(width={WIDTH}, num_heads={HEADS}, num_layers={LAYERS})"
    return backbones.build(spec, num_items=ITEMS).eval()


def history_of(length: int) -> History:
    item = np.random.default_rng(length).integers(0, ITEMS, length)
    return History(item, 1_700_000_000 + 3600 * np.arange(length))


def population(length: int) -> tuple[backbones.Backbone, list[UserState]]:
    """A network, and as many states as fill the pool, each in memory of its own."""
    backbone = network()
    (state,) = backbone.prefill([history_of(length + 1)])  # the newest event waits in the tail
    count = POOL_BYTES // state.nbytes + 1
    return backbone, [
        state.replace({name: rows.clone() for name, rows in state.tensors.items()})
        for _ in range(count)
    ]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]))

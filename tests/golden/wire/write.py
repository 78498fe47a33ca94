"""Write this folder's files: `python tests/golden/wire/write.py`.

Done once per format version: what is there must decode forever and is never written again.
"""

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from gistrec.integers import encode
from gistrec.log_blocks import TAIL_EVENTS, Logged, LogHead
from gistrec.state import UserState
from gistrec.testing.data import sample_state
from gistrec.wire import FORMAT_VERSION, manifest_of, pack

HERE = Path(__file__).parent


def write(name: str, data: bytes) -> None:
    with (HERE / name).open("xb") as file:  # x: never over an old one
        file.write(data)


def write_json(name: str, plain: object) -> None:
    write(name, (json.dumps(plain, separators=(",", ":")) + "\n").encode())


def write_state(name: str, states: list[UserState]) -> None:
    """The last of some states, and the manifest of all."""
    manifest = manifest_of(states, model=states[0].model, codec="identity()", tables={})
    state = states[-1]
    tensors = {n: t.contiguous() for n, t in state.tensors.items()}
    stem = f"{name}-v{FORMAT_VERSION}"
    write(f"{stem}.bin", pack(state, manifest))
    write_json(f"{stem}.json", manifest.to_json())
    expected = tensors | {"length": torch.tensor(state.length)}
    write(f"{stem}.safetensors", safetensors.torch.save(expected))


def all_dtypes(length: int) -> UserState:
    """One tensor of each dtype that can be stored."""
    bits = torch.arange(8 * 16, dtype=torch.uint8)
    names = "float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int8 uint8 int16 int32 int64"
    dtypes = [getattr(torch, name) for name in names.split()]
    tensors = {str(d).removeprefix("torch."): bits.view(d)[:length].clone() for d in dtypes}
    return UserState(tensors, length, "0123456789abcdef")


def write_log() -> None:
    rng = np.random.default_rng(0)
    sealed, count = TAIL_EVENTS + 12, TAIL_EVENTS + 20
    time = 1_500_000_000 + np.cumsum(rng.geometric(0.001, count) * (rng.random(count) < 0.3))
    time[100] -= 5_000  # one event came late
    numbers = rng.integers(-5, 4000, count)
    texts = np.array([f"B00{n:07d}é" for n in numbers])
    action = rng.integers(0, 6, count)
    for name, events in {
        "log": Logged(numbers, time, action),
        "log-text": Logged(texts, time, None),
    }.items():
        stem = f"{name}-v{FORMAT_VERSION}"
        head, [block] = LogHead(is_text=name == "log-text").append(events.part(0, sealed))
        head, _ = head.append(events.part(sealed))
        write(f"{stem}-block.bin", block)
        write(f"{stem}-head.bin", head.to_bytes())
        plain = {f: None if c is None else c.tolist() for f, c in events._asdict().items()}
        write_json(f"{stem}.json", plain)


def write_integers() -> None:
    rng = np.random.default_rng(0)
    time = np.cumsum(rng.geometric(0.001, 30))
    arrays = [
        np.array([7]),
        np.arange(20) - 3,
        rng.integers(0, 3000, 30),
        (rng.pareto(1.0, 40) * 10).astype(np.int64),
        np.cumsum(rng.integers(100, 164, 30)),
        np.cumsum((rng.pareto(0.5, 40) * 10).astype(np.int64)),
        np.cumsum((rng.pareto(0.5, 40) * 10 - 20).astype(np.int64)),
        np.repeat(time[::6], 6),
        time * 86400 + 3600,
        np.repeat(time[::6], 6) * 86400,
        np.array([-(2**63), 2**63 - 1, 0]),
    ]
    write_json(
        f"integers-v{FORMAT_VERSION}.json",
        [{"bytes": encode(values).hex(), "values": values.tolist()} for values in arrays],
    )


def main() -> None:
    write_state("state", [sample_state(0), sample_state(1), sample_state(9)])
    kept = [sample_state(n).select(torch.arange(k)) for n, k in ((1, 0), (5, 2), (90, 7))]
    write_state("state-evicted", kept)
    write_state("state-dtypes", [all_dtypes(0), all_dtypes(1), all_dtypes(16)])
    write_log()
    write_integers()


if __name__ == "__main__":
    main()

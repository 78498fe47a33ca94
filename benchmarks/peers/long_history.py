"""One event after a long history: from the state, or from the history's ids in two ways.

`gistrec step`: the new event through all layers, over states of more users than the caches hold.
`gistrec recompute`: the whole history through the same kernels. `pytorch recompute`: through a
plain implementation of the same layers, as fast as it was to be had: queries whole or by 256
(which halves what the causal mask throws away), compiled or not, in fp32 or bf16; of the last layer
only the last query.
"""

import copy
import itertools
from importlib.metadata import version

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from worker import serve

from gistrec import backbones
from gistrec.backbones._blocks import position_bucket, time_bucket
from gistrec.dataset import History

ITEMS, WIDTH, HEADS, LAYERS = 10_000, 64, 2, 4
POOL_BYTES = 280 << 20
LENGTHS = (1024, 8192)
EAGER_LENGTH = 1024
START, GAP = 1_700_000_000, 3600

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def main() -> None:
    torch.manual_seed(0)
    spec = f"hstu(width={WIDTH}, num_layers={LAYERS}, num_heads={HEADS})"
    backbone = backbones.build(spec, num_items=ITEMS).eval()
    for layer in backbone.layers:
        torch.nn.init.normal_(layer.position.table, std=0.3)
        torch.nn.init.normal_(layer.time.table, std=0.3)
    functions, about = {}, {}
    for length in LENGTHS:
        what = f"recompute, {length} events"
        functions[f"gistrec {what}|1|fp32"] = lambda n=length: output(backbone, history_of(n))
        functions[f"gistrec step, {length} events|1|fp32"] = step(backbone, length)
        for name in (what, f"step, {length} events"):
            about[name] = {"history": length, "width": WIDTH, "layers": LAYERS}
    history, what = history_of(EAGER_LENGTH), f"recompute, {EAGER_LENGTH} events"
    wanted = output(backbone, history)
    for precision, block in itertools.product(("fp32", "bf16"), (EAGER_LENGTH, 256)):
        eager = Recompute(backbone, getattr(torch, {"fp32": "float32"}.get(precision, "bfloat16")))
        compiled = torch.compile(eager.forward, dynamic=False)
        for way, forward in (("eager", eager.forward), ("compiled", compiled)):
            variant = f"{precision} {way} by {block}"
            functions[f"pytorch {what}|1|{variant}"] = lambda f=forward, b=block: f(history, b)
        error = float((eager.forward(history, block).float() - wanted).norm() / wanted.norm())
        assert error < (1e-4 if precision == "fp32" else 0.1), (precision, block, error)
    serve(functions, {n: version(n) for n in ("gistrec", "torch", "numpy")}, about)


def history_of(length: int) -> History:
    item = np.random.default_rng(length).integers(0, ITEMS, length)
    return History(item, START + GAP * np.arange(length))


def output(backbone, history: History) -> Tensor:
    """The newest event's output, from the ids."""
    return backbone._asked(backbone.prefill([history]), [None]).h_BD[0]


def step(backbone, length: int):
    """The newest event's output, from a state; users come in a random order."""
    (state,) = backbone.prefill([history_of(length + 1)])  # the newest event waits in the tail
    states = [
        state.replace({name: rows.clone() for name, rows in state.tensors.items()})
        for _ in range(POOL_BYTES // state.nbytes + 1)
    ]
    turn = itertools.cycle(np.random.default_rng(1).permutation(len(states)).tolist())
    stack = backbone._fused.stack()
    item, time = [state.tensors["tail.item"]], [state.tensors["tail.time"]]

    def run() -> object:
        return backbone._fused.run(stack, [states[next(turn)]], item, time, time, outputs=True)

    return run


class Recompute:
    """The layers of an HSTU, over a whole history."""

    def __init__(self, backbone, dtype: torch.dtype) -> None:
        self.layers = copy.deepcopy(backbone.layers).to(dtype)
        self.table = (backbone.head.embed(torch.arange(ITEMS))).to(dtype)

    def forward(self, history: History, block: int) -> Tensor:
        time_S = torch.from_numpy(history.timestamp)
        at_S = torch.cat([time_S[1:], time_S[-1:]])
        x_SD = self.table[torch.from_numpy(history.item_index)]
        size = len(x_SD)
        near = position_bucket(torch.arange(size))
        blocks = [(at, min(at + block, size)) for at in range(0, size, block)]
        buckets = [
            time_bucket((at_S[low:high, None] - time_S[:high]).clamp(min=1)) for low, high in blocks
        ]
        span = torch.arange(size)
        places = [span[low:high, None] - span[:high] for low, high in blocks]
        for number, layer in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            n_SD = layer.norm_in(x_SD)
            u_SD, q_SD = F.silu(layer.gate_query(n_SD)).chunk(2, -1)
            k_SD, v_SD = F.silu(layer.memory.project(n_SD)).chunk(2, -1)
            q_HSK, k_HSK, v_HSK = (
                t.view(size, HEADS, -1).transpose(0, 1).contiguous() for t in (q_SD, k_SD, v_SD)
            )
            near_HS = layer.position.table[:, near]
            y = []
            for (low, high), bucket, place in zip(blocks, buckets, places, strict=True):
                if last:
                    if high < size:
                        continue
                    low, bucket, place = size - 1, bucket[-1:], place[-1:]
                score = q_HSK[:, low:high] @ k_HSK[:, :high].mT
                score += near_HS.index_select(1, place.clamp(min=0).flatten()).view_as(score)
                score += layer.time.table.index_select(1, bucket.flatten()).view_as(score)
                weight = F.silu(score).mul_(place >= 0).div_(128)
                y.append((weight @ v_HSK[:, :high]).transpose(0, 1).flatten(1))
            y_SD = torch.cat(y)
            if last:
                x_SD, u_SD = x_SD[-1:], u_SD[-1:]
            x_SD = x_SD + layer.out(layer.norm_out(y_SD) * u_SD)
        return x_SD[-1]


main()

"""Several processes that train one model together, as `torchrun` starts them.

    torchrun --nproc-per-node 2 -m gistrec train --data log.parquet --out model

Each takes every n-th sequence of a batch; gradients are weighted by the targets that they are means
of, and added up. So a step is that of one process with the whole batch, but for the order of sums,
for dropout, and for sampled negatives, where a process's own items are its candidates.

Gradients are added parameter by parameter where they lie, without copies: a catalogue's table is
most of them.
"""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gistrec.dataset import Batch
from gistrec.impressions import ImpressionBatch


class Processes:
    """This process among those of a training; alone without torchrun."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def part(self, batch: Batch | ImpressionBatch) -> Batch | ImpressionBatch:
        """This process's sequences of a batch; perhaps none."""
        if self.size == 1:
            return batch
        rows = slice(self.rank, None, self.size)
        if isinstance(batch, ImpressionBatch):
            fields = dataclasses.fields(batch)
            return ImpressionBatch(*(getattr(batch, f.name)[rows] for f in fields))
        own_Q = batch.query_row_Q % self.size == self.rank
        own_P = own_Q[batch.pair_query_P]
        number_Q = own_Q.cumsum(0) - 1
        return Batch(
            batch.item_BS[rows],
            batch.time_BS[rows],
            batch.next_time_BS[rows],
            batch.query_row_Q[own_Q] // self.size,
            batch.query_position_Q[own_Q],
            number_Q[batch.pair_query_P[own_P]],
            batch.pair_item_P[own_P],
        )

    def add_gradients(self, net: nn.Module) -> None:
        """Every parameter's gradient becomes the sum of all processes'."""
        if self.size > 1:
            for parameter in net.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)

    def add(self, value: Tensor) -> float:
        """The sum of all processes' numbers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value.item()


def rank() -> int:
    """This process's number among those that torchrun started; 0 without it."""
    return int(os.environ.get("RANK", 0)) if dist.is_torchelastic_launched() else 0


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, until all of them are done with what follows."""
    if not dist.is_torchelastic_launched():
        yield Processes()
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
        dist.barrier()
    finally:
        dist.destroy_process_group()

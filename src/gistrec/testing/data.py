"""Tiny deterministic data for tests: closed-form logs and states that need no trained model."""

import numpy as np
import torch

from gistrec.dataset import Dataset
from gistrec.events import Events
from gistrec.state import UserState


def stride_events(*, users: int = 40, items: int = 30, length: int = 24) -> Events:
    """Users who step through the items by their own fixed stride, one event an hour.

    User n's event j is item (n + j * (1 + n % 3)) % items, so the next item is known by arithmetic.
    """
    user, step = np.divmod(np.arange(users * length), length)
    item = (user + step * (1 + user % 3)) % items
    return Events(user.astype(np.int64), item.astype(np.int64), 1_600_000_000 + step * 3600)


def stride_dataset(*, users: int = 40, items: int = 30, length: int = 24) -> Dataset:
    """`stride_events` as a dataset."""
    return Dataset.from_events(stride_events(users=users, items=items, length=length))


def sample_state(
    length: int, *, seed: int = 0, num_layers: int = 2, num_heads: int = 2, head_dim: int = 8
) -> UserState:
    """A state as a two-layer backbone that reads items would write it, values drawn at random.

    The newest event is in the tail, so there are `length - 1` slots.
    """
    rng = torch.Generator().manual_seed(seed * 1000 + length)
    shared = torch.Generator().manual_seed(0)
    slots = max(length - 1, 0)
    time = 1_500_000_000 + torch.randint(0, 90_000, (length,), generator=rng).cumsum(0)
    item = torch.randint(0, 3000, (length,), generator=rng)
    tensors = {"item": item[:slots], "time": time[:slots]}
    for layer in range(num_layers):
        for what in "kv":
            # a low-rank part (the same directions for all users) and a residual, as real ones have
            basis = torch.randn(3, head_dim, generator=shared)
            low = torch.randn(num_heads, slots, 3, generator=rng) @ basis
            noise = torch.randn(num_heads, slots, head_dim, generator=rng)
            tensors[f"{what}.{layer}"] = low + 0.3 * noise
    tensors["tail.item"], tensors["tail.time"] = item[slots:], time[slots:]
    return UserState(tensors, length, "0123456789abcdef")


def with_hint(state: UserState, name: str) -> UserState:
    """The state with a random `hint.<name>` of each slot."""
    rng = torch.Generator().manual_seed(state.length)
    hint_M = torch.rand(state.num_slots, generator=rng)
    return state.replace({**state.tensors, f"hint.{name}": hint_M})

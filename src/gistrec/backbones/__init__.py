"""Backbones: architectures that turn a history into a state and a state into scores.

Shapes: B users, S new events, M slots, N candidates, V items, D width, L layers, H heads,
K head width. One file per architecture; a file's name is its spec name. Subclass `Backbone`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gistrec import metrics, registry
from gistrec.dataset import History, Ints
from gistrec.errors import ConfigError
from gistrec.kernels.packed import Coded, Grown
from gistrec.manifest import Manifest
from gistrec.registry import Spec
from gistrec.state import UserState


class Ranking(NamedTuple):
    """A user's list, best first, equal scores by the lower index."""

    item_index: Ints
    score: NDArray[np.float32]


class Layout(NamedTuple):
    """How a recipe stores states."""

    manifest: Manifest
    """What all states have in common."""
    coded: Callable[[str], Coded | None]
    """How a tensor's rows are coded; None: in a way that only its codec reads."""
    stays: tuple[int, int] | None
    """Which slots stay, as `Codec.stays` says."""
    grows: bool
    """Whether a state may be divided into a block and a tail."""
    whole_bytes: int
    """A state up to that size is not."""


class Direct(ABC):
    """States of one manifest as the store holds them: asked and grown without being decoded.

    Every method returns None where a state must be read the long way: it is damaged, of another
    manifest, does not cover `length` events, holds no event that the model knows, or codes what
    the compiled form refuses. What is found and written is what the long way finds and writes.
    A state comes as its bytes, whole or a tail, and the block that a tail stands on.
    """

    @abstractmethod
    def top_k(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        k: int,
        *,
        exclude: Ints,
        at: int | None = None,
    ) -> Ranking | None:
        """The k best items of the catalogue but those to exclude, as `Backbone.top_k`."""

    @abstractmethod
    def score(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        item_index: Tensor,
        *,
        at: int | None = None,
    ) -> Tensor | None:
        """Scores of candidates, (N,), as `Backbone.score`."""

    @abstractmethod
    def grow(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        events: History,
        *,
        counted: int,
        tail_bytes: int,
    ) -> Grown | None:
        """The state after new events.

        Args:
            state: As stored.
            block: As stored.
            length: Events that it must cover.
            events: New ones that the model knows, in the order of the log.
            counted: How many there are, those that it does not know included.
            tail_bytes: A longer tail is sealed; 0: the block may not stay.
        """


class Backbone(nn.Module, ABC):
    """A sequential recommender whose per-user state can be kept and appended to.

    Law: `append(append(empty(), a), b) == append(empty(), a + b)` at every cut, and a batch equals
    one by one (shipped as `gistrec.testing.BackboneTests`).
    """

    spec: Spec
    """Name and options that rebuild it (set by `build`)."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items

    def set_popularity(self, count_V: Tensor) -> None:
        """Give the event counts of the items, for users without a history."""

    def set_features(self, feature_VF: Tensor) -> None:
        """Give the items' feature rows, where a backbone has a use for them."""

    @abstractmethod
    def loss(self, batch: Any, *, rng: torch.Generator | None = None) -> Tensor:
        """Training loss, a scalar; `rng` draws negatives and the like.

        Args:
            batch: A `gistrec.dataset.Batch` of histories; of rankers an `ImpressionBatch`.
            rng: Where randomness of the loss comes from.
        """

    def finish(self) -> None:
        """Called at the end of a training, for what it did not reach."""

    @abstractmethod
    def empty(self, *, hints: bool = False) -> UserState:
        """The state of a user with no event.

        Args:
            hints: Whether it, and what is appended to it, tells codecs what the backbone itself
                does not read (`hint.*`, see `gistrec.state`). Counting attention slows a prefill
                of long histories by about a quarter.
        """

    @abstractmethod
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state followed by its user's new events (any number, none included)."""

    @abstractmethod
    def score(
        self,
        states: Sequence[UserState],
        item_index: Tensor | None = None,
        *,
        at: Sequence[int | None] | None = None,
    ) -> Tensor:
        """Score candidates for each state: score_BN.

        Args:
            states: B states, length 0 included.
            item_index: (N,) dense item indices, the same for all users; None: all V items.
            at: Each request's time (Unix seconds), or None for "at the newest event"; models that
                do not use the request's time ignore it.
        """

    def top_k(
        self,
        states: Sequence[UserState],
        k: int,
        *,
        exclude: Sequence[Ints] | None = None,
        at: Sequence[int | None] | None = None,
    ) -> list[Ranking]:
        """The k best items of the catalogue for each state; fewer where fewer are left.

        This scores all items and sorts; a backbone that can find the best ones faster does.

        Args:
            states: B states, length 0 included.
            k: Length of the lists, at least 1.
            exclude: Items that each user's list leaves out.
            at: Each request's time, as in `score`.

        Raises:
            ConfigError: k is below 1. DataError: a score is not a number.
        """
        score_BV = self.score(states, at=at)
        for row, items in enumerate(exclude or ()):
            score_BV[row, torch.from_numpy(items)] = -torch.inf
        out = []
        for row, item in enumerate(metrics.top_k(score_BV, k)):
            score = score_BV[row].numpy()[item]
            out.append(Ranking(item[score > -np.inf], score[score > -np.inf]))
        return out

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors and biases of all items, (V, D) and (V,), for an index outside of gistrec.

        A user's score of an item is `user @ item + bias`; with repeats, that of a new item, as
        counting one's own events is no product of vectors.

        Raises:
            ConfigError: the architecture does not score by vectors.
        """
        raise ConfigError(
            f"{self.spec.name} has no item vectors, it scores otherwise: take `score` or `top_k`"
        )

    def user_vectors(
        self, states: Sequence[UserState], *, at: Sequence[int | None] | None = None
    ) -> Tensor:
        """The users' vectors at the requests' times, (B, D); zeros where there is no known event.

        Raises:
            ConfigError: the architecture does not score by vectors.
        """
        raise ConfigError(
            f"{self.spec.name} has no user vectors, it scores otherwise: take `score` or `top_k`"
        )

    def prefill(self, histories: Sequence[History], *, hints: bool = False) -> list[UserState]:
        """The states of whole histories, with hints for codecs or without."""
        return self.append([self.empty(hints=hints)] * len(histories), histories)

    def direct(self, layout: Layout) -> Direct | None:
        """States as bytes; None where that is not compiled. Weights must not change any more."""
        return None

    @abstractmethod
    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state after `num_events` events, by arithmetic alone."""

    def fingerprint(self) -> str:
        """16 hex digits that change when the spec or any weight changes."""
        if not hasattr(self, "_fingerprint"):
            digest = hashlib.sha256(f"{self.spec}:{self.num_items}".encode())
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def train(self, mode: bool = True) -> "Backbone":
        """As in torch; entering training forgets the fingerprint: weights are about to change."""
        if mode:
            self.__dict__.pop("_fingerprint", None)
        super().train(mode)
        return self


COMPONENT_BASES = (Backbone,)


def is_ranker(name: str) -> bool:
    """Whether a backbone is trained on impressions with labels, not to predict next items."""
    return "labels" in registry.options_of(registry.find("backbones", name))


def build(spec: str, *, num_items: int) -> Backbone:
    """Make a backbone from its spec string, weights drawn from torch's current seed."""
    parts = registry.parse_spec(spec)
    if len(parts) != 1:
        raise ConfigError(f"a backbone is one part, given {spec!r}")
    backbone: Any = registry.build("backbones", parts[0], num_items=num_items)
    backbone.spec = parts[0]
    return backbone  # type: ignore[no-any-return]  # registry.find checked the class

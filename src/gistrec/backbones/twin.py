"""TWIN: the best events of the whole history by the scores that then weigh them.

    s_ij = q_i k_j / sqrt(K)                  in every head, over the whole history
    y_i  = sum_{j in the best 50 of s_i} softmax(s_ij) v_j

Level: architecture
Source: Chang et al. 2023, "TWIN: TWo-stage Interest Network", arXiv 2302.02352, section 4: the
search and the attention share their scores.
Differs: no bias of cross features; keys and values come from a memory (see `memories`); the head
over the interest is that of `_ranker`.
Cost: 2 * width numbers per event with the full memory; one dot product per candidate, head and
slot, and a top-k.
"""

from gistrec.backbones._target import TargetAttention, TargetReader
from gistrec.errors import ConfigError


class _Reader(TargetReader):
    net: "TWIN"

    @property
    def keep(self) -> int:
        return self.net.keep


class TWIN(TargetAttention):
    """Target attention over the best of the history.

    Args:
        num_items: V, from the data.
        keep: How many events a candidate attends to.
        width: D.
        num_heads: H; divides the width.
        memory: Spec of what events write and candidates read.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
        lain: Whether attention is told how long the history is (see `_lain`).
    """

    reader = _Reader

    def __init__(
        self,
        num_items: int,
        *,
        keep: int = 50,
        width: int = 32,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"twin(keep=...) takes 1 and more, given {keep}")
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            memory=memory,
            labels=labels,
            item_features=item_features,
            dropout=dropout,
            lain=lain,
        )
        self.keep = keep

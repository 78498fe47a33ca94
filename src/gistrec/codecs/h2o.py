"""Keep the heavy hitters: the slots that received most attention so far, and the newest ones.

    importance of slot j = sum over all queries i >= j so far of mean over layers and heads |a_ij|

Level: token eviction
Source: Zhang et al. 2023, "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
Language Models", arXiv 2306.14048, section 4.
Differs: one choice for all layers and heads; |a| in place of softmax weights under HSTU; counts are
stored in 2,048 steps per factor of two.
Cost: a kept slot is unchanged and gains its position and 2 bytes at most for its count; time O(M).
"""

from dataclasses import dataclass

from gistrec.codecs import EvictByAttention


@dataclass(frozen=True)
class H2O(EvictByAttention):
    """What mattered to many queries, with the newest half kept in any case."""

    needs = frozenset({"total"})
    score = "total"

"""Keep the slots that the newest query attends to most.

    importance of slot j = mean over layers and heads |a_nj|, n the newest absorbed event

Level: token eviction
Source: Oren et al. 2024, "Transformers are Multi-State RNNs", arXiv 2401.06104, section 3.2.
Differs: one choice for all layers and heads (the paper's default averages the heads of a layer);
|a| in place of softmax weights under HSTU; the newest query is that of the event before the raw
tail, whose own query waits for the next event.
Cost: a kept slot is unchanged and gains its position and 2 bytes at most for its score; time O(M).
"""

from dataclasses import dataclass

from gistrec.codecs import EvictByAttention


@dataclass(frozen=True)
class Tova(EvictByAttention):
    """What matters to the user's present interest; nothing is kept for being new, but one slot."""

    share: float = 0.0
    """Share of the kept slots beyond the sinks that are the newest, 0 to 1."""

    needs = frozenset({"last"})
    score = "last"

"""The newest events and the first ones: a sliding window with fixed anchors.

    k_t = f(W_k x_t),  v_t = f(W_v x_t)
    query t sees event s <= t  if  t - s < window  or  s < anchors

Level: token merging
Source: Longformer, Beltagy et al. 2020, arXiv 2004.05150, section 3.1.
Differs: the paper's window lies on both sides of a query; ours ends at the query's own event,
which counts. Its global tokens also attend to all events, the later ones too, with projections of
their own for that; this is not causal, so here all events see the anchors, but an anchor sees the
events before it only and nothing else marks it. Which tokens are global is a choice of the task
there; here they are the first events of the history, known from the start. No dilation.
Cost: 2 * width numbers per event and layer, for window - 1 + anchors events at most beside the
tail; an append or score reads these, training computes all pairs and masks them.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads


class Longformer(Memory):
    """Whole keys and values of a window and of the anchors.

    Args:
        window: Newest events that a query sees, its own among them.
        anchors: First events of the history that every query sees.
    """

    def __init__(self, size: Size, *, window: int = 64, anchors: int = 4) -> None:
        super().__init__(size)
        if window < 1:
            raise ConfigError(f"longformer(window=...) takes 1 event or more, given {window}")
        if anchors < 0:
            raise ConfigError(f"longformer(anchors=...) takes 0 events or more, given {anchors}")
        self.window, self.anchors = window, anchors
        self.project = nn.Linear(size.width, 2 * size.width)

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, H, S, K)."""
        k_BSD, v_BSD = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.size.num_heads), "v": heads(v_BSD, self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What was written."""
        return held["k"], held["v"]

    def visible(self, q_BHQK: Tensor, k_BHTK: Tensor, context: Context) -> Tensor:
        """The window and the anchors: (B, 1, Q, T)."""
        slot_B1T, query_BQ1 = context.slot_BT[:, None], context.query_BQ[:, :, None]
        near_BQT = (query_BQ1 - slot_B1T < self.window) | (slot_B1T < self.anchors)
        return (context.visible_BQT & near_BQT)[:, None]

    def reach(self, position_M: Tensor, following: int) -> Tensor:
        """The window of a query at `following`, and the anchors."""
        return (following - position_M < self.window) | (position_M < self.anchors)

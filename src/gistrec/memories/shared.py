"""A layer that keeps nothing: its queries read the keys and values of the layer below.

    k_l = k_(l-1),  v_l = v_(l-1)

Two published uses, by where it stands:
    memory='full() | shared()'                         pairs of layers (CLA)
    memory='full() | full() | shared() | shared()'     the upper half reads one cache (YOCO)

Level: layer
Source: Brandon et al. 2024, "Reducing Transformer Key-Value Cache Size with Cross-Layer Attention"
(CLA), arXiv 2405.12981, section 2; Sun et al. 2024, "You Only Cache Once: Decoder-Decoder
Architectures for Language Models" (YOCO), arXiv 2405.05254, section 2.
Differs: YOCO's lower half keeps a window or a constant size; here that is the lower memories'
choice, and all layers that hold slots hold the same ones. YOCO makes the upper half's keys and
values of the lower half's output by projections of their own; here they are those that the layer
below read, whatever memory it has, its restriction to some slots included. Biases are the layer's
own. A memory below that keeps no rows of events is an error.
Cost: nothing per event and layer; reading computes what the layer below does, and there is no
key and value projection.
"""

from collections.abc import Mapping

from torch import Tensor

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader


class Shared(Memory):
    """Keys and values of the layer below; not for the lowest layer."""

    def write(self, x_BSD: Tensor) -> Held:
        """Nothing."""
        return {}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """Those of the layer below.

        Raises:
            ConfigError: no layer below reads keys and values.
        """
        k_BHTK, v_BHTK, _ = _below(context)
        return k_BHTK, v_BHTK

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Read what the layer below read, where it could; a layer above may do the same.

        Raises:
            ConfigError: no layer below reads keys and values.
        """
        k_BHTK, v_BHTK, visible = _below(reader.context)
        reader.context.below.append(lambda: (k_BHTK, v_BHTK, visible))
        return reader.read(q_BHQK, k_BHTK, v_BHTK, visible), {}


def _below(context: Context) -> tuple[Tensor, Tensor, Tensor | None]:
    if not context.below:
        raise ConfigError(
            "shared() reads the keys and values of a layer below, and there is none: name one "
            "memory per layer, lowest first, such as memory='full() | shared()'"
        )
    return context.below[-1]()

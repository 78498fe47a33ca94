"""A query reads the events whose keys fall into its own hash bucket.

    h_r(x) = signs of (x R_r), as a number of `bits` bits      R fixed, drawn from a fixed seed
    query t sees event s <= t  if  h_r(q_t) = h_r(k_s) in at least one round r, or s = t

Level: sequence
Source: Reformer, Kitaev et al. 2020, arXiv 2001.04451, section 2 (LSH attention).
Differs: the paper shares one projection between queries and keys; here the layer makes its own
queries, so both are hashed with the same rotations and meet only where training brings them
together. Sign bits in place of its argmax over [xR; -xR]. R is orthogonal to (1, ..., 1): what
passed SiLU has a large share of that direction, which would put nearly everything in one bucket.
The paper sorts by bucket, cuts into pieces and attends inside a piece and the one before; here
buckets are a mask over all pairs, since pieces shift with every append. It lets an event see
itself only if it sees no other; here always, as queries and keys differ. Hashes are hard: no
gradient passes, and a key that a codec rounds may change its bucket.
Cost: 2 * width numbers per event and layer, as with the full memory: it limits what is read, not
what is stored. Time: that of the full memory and the hashes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Size, heads

_SEED = 2001


class Reformer(Memory):
    """Whole keys and values, read within hash buckets.

    Args:
        bits: Of a hash: 2**bits buckets.
        rounds: Hashes per key; more of them find more.
    """

    def __init__(self, size: Size, *, bits: int = 4, rounds: int = 2) -> None:
        super().__init__(size)
        for name, given in ("bits", bits), ("rounds", rounds):
            if not 1 <= given <= 16:
                raise ConfigError(f"reformer({name}=...) takes 1 to 16, given {given}")
        self.bits, self.rounds = bits, rounds
        self.project = nn.Linear(size.width, 2 * size.width)
        rng = torch.Generator().manual_seed(_SEED)
        plane = torch.randn(size.head_dim, rounds * bits, generator=rng)
        self.plane: Tensor
        self.register_buffer("plane", plane - plane.mean(0))

    def write(self, x_BSD: Tensor) -> Held:
        """`k` and `v`, each (B, H, S, K)."""
        k_BSD, v_BSD = self.activation(self.project(x_BSD)).chunk(2, dim=-1)
        return {"k": heads(k_BSD, self.size.num_heads), "v": heads(v_BSD, self.size.num_heads)}

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """What was written."""
        return held["k"], held["v"]

    def visible(self, q_BHQK: Tensor, k_BHTK: Tensor, context: Context) -> Tensor:
        """The query's buckets and its own event: (B, H, Q, T)."""
        found = (context.query_BQ[:, :, None] == context.slot_BT[:, None])[:, None]
        rounds = zip(self.buckets(q_BHQK), self.buckets(k_BHTK), strict=True)
        for query_BHQ, key_BHT in rounds:
            found = found | (query_BHQ[..., :, None] == key_BHT[..., None, :])
        return found & context.visible_BQT[:, None]

    def buckets(self, x_BHTK: Tensor) -> tuple[Tensor, ...]:
        """The bucket of queries or keys in each round: (B, H, T)."""
        sign = (x_BHTK @ self.plane > 0).unflatten(-1, (self.rounds, self.bits))
        place = 2 ** torch.arange(self.bits, dtype=torch.int32, device=sign.device)
        bucket_BHTr = (sign * place).sum(-1, dtype=torch.int32)
        return tuple(bucket_BHTr[..., r] for r in range(self.rounds))

"""Every number as it is: what other codecs are compared with.

    encode(state) = state

Level: reference
Source: none; the uncompressed row of every table.
Differs: none known.
Cost: 4 bytes a number (fp32); no time.
"""

from dataclasses import dataclass

from gistrec.codecs import Codec
from gistrec.kernels.packed import Coded
from gistrec.state import UserState


@dataclass(frozen=True)
class Identity(Codec):
    """The state unchanged."""

    slotwise = True

    def encode(self, state: UserState) -> UserState:
        """The same state."""
        return state

    def decode(self, state: UserState) -> UserState:
        """The same state."""
        return state

    def coded(self, name: str, rows: Coded) -> Coded:
        """As they are."""
        return rows

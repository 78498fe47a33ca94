"""Diagonal state space: every channel drives damped oscillators, from a few to thousands of events.

    z_i[t] = a_i z_i[t-1] + sqrt(1 - |a_i|^2) x[t]        a_i = exp((-1 + i turn_i) / tau_i)
    y[t]   = sum_i Re(c_i z_i[t]) + d x[t]                per channel of x = LN(X)
    Y = X + GLU(W GELU(y));                               X' = Y + W_2 GELU(W_1 LN(Y))

tau, turn, c and d are learned. Training takes chunks of 32 events: inside a chunk a convolution as
a matrix product, from chunk to chunk z is carried. The state holds z, real and imaginary parts
alternating on the last axis.

Shapes: C chunks, L events of a chunk, N oscillators of a channel, R = 2 N real numbers.

Level: architecture
Source: S4D, Gu et al. 2022, arXiv 2206.11893 (diagonal form, kernel, GLU); oscillators as the
branches of D-RF, Zhang et al. 2025, arXiv 2509.17186; the gain is LRU's normalisation, Orvieto et
al. 2023, arXiv 2303.06349.
Differs: no spikes, thresholds or time steps of its own (tau is in events); Re(c z) with complex c
where D-RF has c Re(z). The gain gives all oscillators the same power on noise. Time scales start
geometric from 2 to `slowest` in every channel, turns from 0 to half a turn per tau over the
channels; tau is at least 1/2. Chunks in place of FFT or scan: exact for any cut.
Cost: 2 * states * width numbers per layer, whatever the length (4 KB in fp32 at width 64 with 8
states); with `repeats` 16 bytes per event on top. Time linear in the events.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._causal import Causal
from gistrec.backbones._layer import Step
from gistrec.backbones._recurrent import RecurrentLayer, in_chunks, spread_log_rates
from gistrec.errors import ConfigError
from gistrec.memories import Held

_CHUNK = 32
_FASTEST = 2.0
"""Largest decay rate per event: powers within a chunk then stay between e^-64 and e^64."""
_QUICK = 2.0
"""Shortest time scale at the start, in events."""


class _SSMLayer(RecurrentLayer):
    def __init__(self, width: int, states: int, slowest: float, dropout: float) -> None:
        super().__init__(width, dropout)
        self.log_rate = nn.Parameter(spread_log_rates(states, _QUICK, slowest).repeat(width, 1))
        self.turn = nn.Parameter(torch.linspace(0, math.pi, width)[:, None].repeat(1, states))
        self.read = nn.Parameter(torch.randn(width, states, 2) * states**-0.5)
        self.through = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(width, 2 * width)

    def empty(self) -> Held:
        width, states, _ = self.read.shape
        return {"fixed.z": self.read.new_zeros(1, width, 2 * states)}

    def mix(self, x_BSD: Tensor, held: Held, step: Step) -> tuple[Tensor, Held]:
        size, real_BS1 = x_BSD.shape[1], step.real_BS[..., None]
        chunk = min(_CHUNK, size)
        x_BCLD = in_chunks(x_BSD * real_BS1, chunk, -2)
        num_BC = in_chunks(real_BS1.int(), chunk, -2).sum((-1, -2))
        rate_DN = self.log_rate.clamp(max=math.log(_FASTEST)).exp()
        log_DN = torch.complex(-rate_DN, rate_DN * self.turn)
        exponent = torch.arange(-chunk, chunk + 1, device=x_BSD.device)
        power = (exponent[:, None, None] * log_DN).exp()  # a^p is in row chunk + p
        later_LDN, next_LDN = power[chunk:-1], power[chunk + 1 :]
        gain_DN = torch.expm1(-2 * rate_DN).neg().sqrt()
        read_DN = torch.view_as_complex(self.read)
        # a chunk not full adds a power too many for each event that is missing
        into_LDR = _real(later_LDN.flip(0) * gain_DN)
        added_BCDN = _complex(torch.einsum("bcld,ldr->bcdr", x_BCLD, into_LDR)) * power[num_BC]
        decay_BCDN = power[chunk + num_BC]
        z_BDN, before = _complex(held["fixed.z"]), []
        for decay_BDN, added_BDN in zip(decay_BCDN.unbind(1), added_BCDN.unbind(1), strict=True):
            before.append(z_BDN)
            z_BDN = decay_BDN * z_BDN + added_BDN
        # Re(w z) is the dot product of conj(w) and z as real vectors
        out_LDR = _real((read_DN * next_LDN).conj().resolve_conj())
        y_BCLD = torch.einsum("bcdr,ldr->bcld", _real(torch.stack(before, 1)), out_LDR)
        kernel_LD = (read_DN * gain_DN * later_LDN).real.sum(-1)
        lag_LL = exponent[chunk:-1, None] - exponent[chunk:-1]
        inside_LLD = kernel_LD[lag_LL.clamp(min=0)] * (lag_LL >= 0)[..., None]
        y_BCLD = y_BCLD + torch.einsum("bcld,mld->bcmd", x_BCLD, inside_LLD)
        y_BSD = y_BCLD.flatten(1, 2)[:, :size] + self.through * x_BSD
        return F.glu(self.out(F.gelu(y_BSD)), dim=-1), {"fixed.z": _real(z_BDN)}


def _real(z: Tensor) -> Tensor:
    return torch.view_as_real(z).flatten(-2)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())


class SSM(Causal):
    """Diagonal state space model. Knows the order of events, not their times.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        states: Oscillators per channel, two numbers each.
        slowest: Longest time scale at the start, in events, at least 2.
        dropout: Share of units dropped in training.
        repeats: Whether the user's own past events of an item raise its score; keeps all events.
        temperature: Cosines are divided by it.
        negatives: Sampled items per batch beside the batch's own; 0 for the whole catalogue.
    """

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        num_layers: int = 2,
        states: int = 8,
        slowest: float = 4096.0,
        dropout: float = 0.2,
        repeats: bool = False,
        temperature: float = 0.05,
        negatives: int = 0,
    ) -> None:
        if states < 1:
            raise ConfigError(f"ssm(states=...) takes 1 or more per channel, given {states}")
        if not _QUICK <= slowest < math.inf:
            raise ConfigError(f"ssm(slowest=...) takes {_QUICK:g} events or more, given {slowest}")
        super().__init__(
            num_items,
            width=width,
            num_heads=1,
            layers=[_SSMLayer(width, states, slowest, dropout) for _ in range(num_layers)],
            dropout=dropout,
            temperature=temperature,
            negatives=negatives,
            repeats=repeats,
            uses_time=False,
            request_time=False,
        )

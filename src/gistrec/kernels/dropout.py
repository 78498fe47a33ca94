"""Dropout whose random bits are a hash of the place: faster than a drawn mask on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import kernels

_MANY = 1 << 16
"""Numbers from which it pays; fewer are dropped by PyTorch's own draws."""


class Dropout(nn.Module):
    """In training, zeros for a share of the numbers, and the others scaled up to make up for it.

    Args:
        share: Of numbers dropped, 0 to below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """As `x`, with its choice drawn from PyTorch's generator."""
        if not self.training or not self.share:
            return x
        plain = x.dtype == torch.float32 and x.device.type == "cpu"
        if not plain or x.numel() < _MANY or not kernels.native():
            return F.dropout(x, self.share)
        seed = int(torch.randint(1 << 62, ()))
        y: Tensor = _Dropout.apply(x, round(self.share * 2**32), seed)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
        return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int, seed: int) -> Tensor:
        ctx.how = dropped, seed
        return _apply(x, dropped, seed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _apply(gradient, *ctx.how), None, None


def _apply(x: Tensor, dropped: int, seed: int) -> Tensor:
    from gistrec._native import dropout

    x = x.contiguous()
    y = torch.empty_like(x)
    dropout(x.data_ptr(), y.data_ptr(), x.numel(), dropped, seed)
    return y

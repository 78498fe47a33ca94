"""Write the golden losses that are missing; part of `make golden`. Existing files stay."""

from pathlib import Path

import torch

from gistrec import backbones, registry
from gistrec.testing import rankers
from gistrec.testing.backbones import train_losses

FOLDER = Path(__file__).parent / "backbones"

for name in registry.names("backbones"):
    path = FOLDER / f"{name}.losses.txt"
    if not path.exists():
        torch.manual_seed(0)
        if backbones.is_ranker(name):
            losses = rankers.golden_losses(f"{name}(width=16)")
        else:
            losses = train_losses(f"{name}(width=16)", steps=10)
        path.write_text("".join(f"{n} {loss:.5f}\n" for n, loss in enumerate(losses)))
        print(f"wrote {path.name}")

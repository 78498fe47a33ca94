"""Compute of the hot paths, three ways: compiled (`gistrec._native`), Numba, and plain PyTorch.

One file per kernel. The compiled core is chosen where it was built, else Numba where it is
installed, else PyTorch, which is the reference that the other two are tested against. Numba has a
form of the catalogue's scan alone; all else is then PyTorch.
`GISTREC_KERNELS=native|numba|torch` in the environment overrides; `gistrec doctor` tells.
"""

import importlib
import os
from functools import cache
from typing import Literal

from gistrec.errors import ConfigError

Path = Literal["native", "numba", "torch"]
PATHS: tuple[Path, ...] = ("native", "numba", "torch")
"""Fastest first."""

_MODULES = {"native": "gistrec._native", "numba": "numba", "torch": "torch"}
_HOW = {
    "native": "install gistrec where a C++ compiler is found",
    "numba": 'pip install "gistrec[numba]"',
}


@cache
def chosen() -> Path:
    """The way that kernels are computed in this process.

    Raises:
        ConfigError: GISTREC_KERNELS names none, or one that is not installed.
    """
    asked = os.environ.get("GISTREC_KERNELS", "")
    if not asked:
        return next(path for path in PATHS if available(path))
    for path in PATHS:
        if path == asked:
            if not available(path):
                raise ConfigError(
                    f"GISTREC_KERNELS={asked}, which is not installed: {_HOW[path]}, or unset it"
                )
            return path
    raise ConfigError(f"GISTREC_KERNELS={asked!r}: allowed: {', '.join(PATHS)}")


def why_not(path: Path) -> str:
    """What to do to have a way of computing; empty if it is installed."""
    return "" if available(path) else _HOW[path]


@cache
def available(path: Path) -> bool:
    """Whether a way of computing is installed."""
    try:
        importlib.import_module(_MODULES[path])
    except ImportError:
        return False
    return True


def native() -> bool:
    """Whether the compiled core is used."""
    return chosen() == "native"

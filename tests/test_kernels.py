import subprocess
import sys

import pytest

from gistrec import kernels

ASK = "from gistrec import kernels; print(kernels.chosen())"


def chosen_with(asked: str) -> subprocess.CompletedProcess[str]:
    environment = {"GISTREC_KERNELS": asked}
    return subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False
    )


def test_pytorch_can_be_asked_for():
    assert chosen_with("torch").stdout.strip() == "torch"


def test_the_fastest_installed_is_the_default():
    assert chosen_with("").stdout.strip() == next(p for p in kernels.PATHS if kernels.available(p))


@pytest.mark.parametrize("asked", ["fastest", "cuda"])
def test_an_unknown_way_is_refused_with_what_is_allowed(asked):
    found = chosen_with(asked)
    assert found.returncode != 0
    assert "allowed: native, numba, torch" in found.stderr


def test_the_core_was_built_here():
    native = pytest.importorskip("gistrec._native")
    assert native.instruction_set() in ("portable", "avx2", "avx512")

"""What is wrong with an installation, a store, a model or a log, and what to do.

Nothing is raised, whatever is wrong: it belongs in the list.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from gistrec.doctor._check import Check, attempt
from gistrec.doctor._log import check_log
from gistrec.doctor._model import check_model
from gistrec.doctor._store import check_store

__all__ = ["Check", "check", "check_log", "check_model", "check_store"]

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 1 << 30


def check() -> list[Check]:
    """Look at this machine and what is installed."""
    requirements = _requirements()
    extras = dict.fromkeys(re.findall(r'extra == "(\w+)"', "\n".join(requirements)))
    return [
        attempt("python", _python),
        attempt("gistrec", lambda: version("gistrec")),
        *(_needed(r) for r in requirements if "extra ==" not in r),
        *(_extra(name, requirements) for name in extras if name not in ("dev", "docs")),
        attempt("compute", _compute),
        attempt("kernels", _kernels),
        attempt("methods", _methods),
        attempt("temporary folder", _temporary),
        attempt("store", _lmdb),
    ]


def _python() -> str:
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        raise RuntimeError(f"{platform.python_version()} is too old: install {least} or newer")
    return f"{platform.python_version()}, {platform.system()} {platform.machine()}"


def _requirements() -> list[str]:
    """What the installed package says that it needs; nothing if it is not installed."""
    try:
        return requires("gistrec") or []
    except PackageNotFoundError:
        return []


def _needed(requirement: str) -> Check:
    """A library that every install has."""
    return attempt(_name(requirement), lambda: _version(requirement))


def _extra(extra: str, requirements: list[str]) -> Check:
    """The libraries of `gistrec[extra]`."""
    found = []
    for requirement in requirements:
        if f'extra == "{extra}"' in requirement and _name(requirement) != "gistrec":
            try:
                found.append(f"{_name(requirement)} {_version(requirement)}")
            except RuntimeError as error:
                remedy = f'pip install "gistrec[{extra}]"'
                return Check(f"[{extra}]", "missing", f"{_name(requirement)}: {error}; {remedy}")
    return Check(f"[{extra}]", "ok", ", ".join(found))


def _name(requirement: str) -> str:
    """`torch<2.14,>=2.9` -> `torch`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _version(requirement: str) -> str:
    """The installed version of a requirement, checked against its bounds."""
    wanted = requirement.partition(";")[0].strip()
    try:
        found = version(_name(requirement))
    except PackageNotFoundError:
        raise RuntimeError(f'not installed: pip install "{wanted}"') from None
    for bound, number in re.findall(r"(>=|<)([\d.]+)", wanted):
        if (_numbers(found) < _numbers(number)) == (bound == ">="):
            raise RuntimeError(f'{found} is not {bound} {number}: pip install "{wanted}"')
    return found


def _numbers(version: str) -> list[int]:
    """`2.13.0+cpu` -> [2, 13, 0]."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]


def _compute() -> str:
    import torch

    ones = torch.ones(64, 64)
    if not torch.equal(ones @ ones, 64 * ones):
        raise RuntimeError("torch multiplies matrices wrongly: install it again")
    return (
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}"
        + (", CUDA" if torch.cuda.is_available() else ", no GPU")
    )


def _kernels() -> str:
    """Which way hot paths are computed, and why."""
    from gistrec import kernels

    path = kernels.chosen()
    why = (
        "asked for by GISTREC_KERNELS" if os.environ.get("GISTREC_KERNELS") else "the fastest here"
    )
    if path == "native":
        from gistrec import _native

        return f"native ({_native.instruction_set()}), {why}"
    missing = kernels.why_not("native")
    return f"{path}, {why}" + (f"; native: {missing}" if missing else "")


def _methods() -> str:
    """Every module of every family can be imported, with what it needs."""
    from gistrec import registry

    found = []
    for family in registry.FAMILIES:
        names = registry.names(family)
        for name in names:
            registry.find(family, name)
        found.append(f"{len(names)} {family}")
    return ", ".join(found)


def _temporary() -> str:
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"gistrec")
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < LEAST_FREE_BYTES:
        raise RuntimeError(f"{folder} has {free_bytes:,} bytes left: free some, or set TMPDIR")
    return f"{folder}, {free_bytes / 2**30:,.0f} GiB free"


def _lmdb() -> str:
    """What is written to lmdb is there again after reopening."""
    from gistrec.stores import open_store

    with tempfile.TemporaryDirectory() as folder:
        url = f"lmdb://{Path(folder).resolve()}?map_size=1m"
        with open_store(url) as store:
            store.put("doctor", b"well")
        with open_store(url) as store:
            entry = store.get("doctor")
    if entry is None or entry.blob != b"well":
        raise RuntimeError("lmdb does not give back what was written: install it again")
    return "lmdb keeps what is written"

"""Result rows: JSON lines, appended and never edited, and where they were measured."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gistrec.errors import DataError

Row = dict[str, Any]


def load(path: str | Path) -> list[Row]:
    """Read all rows; a line that a killed run left unfinished is passed over.

    Raises:
        DataError: the file is missing or holds something else than result rows.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a .jsonl file that `gistrec bench` wrote")
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            if line.startswith(b"{"):
                continue
            row = ""
        if isinstance(row, dict):
            rows.append(row)
        elif row is not None:
            raise DataError(
                f"{path} line {number} is not a result row (a JSON object): give a .jsonl file "
                "that `gistrec bench` wrote"
            )
    return rows


def append(path: str | Path, row: Mapping[str, Any]) -> None:
    """Add one row, on a line of its own even where the last line is unfinished."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(_rounded(row), allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)  # one write: two runs may append to the same file
        file.flush()
        os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    """Floats to six significant digits, which is more than any of them is exact to."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def environment() -> Row:
    """`commit`, `machine`, `versions` and `date` of a measurement that is made now."""
    return {
        "commit": commit(),
        "machine": _machine(),
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@cache
def commit() -> str:
    """The commit of this code, `+dirty` if changed since; `unknown` outside its repository."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not somebody else's repository
        return git("rev-parse", "--short=12", "HEAD") + (
            "+dirty" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def _machine() -> Row:
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


@cache
def _versions() -> dict[str, str]:
    packages = ("gistrec", "torch", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}

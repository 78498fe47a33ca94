"""`docs/settings.md`: what can be set outside the command line's options, and those with it."""

import dataclasses
from typing import Any

import docstring_parser
import msgspec

from gistrec import store_settings
from gistrec.reference_docs import MADE
from gistrec.server import Settings
from gistrec.train import Training

ENVIRONMENT = {
    "OMP_NUM_THREADS": "Threads of PyTorch. The command line takes 1 if it is not set; a program "
    "that imports gistrec decides for itself ([why](log/2026-11-22-one-thread.md)).",
    "GISTREC_KERNELS": "`native`, `numba` or `torch`: which form of the hot loops to use in place "
    "of the fastest that is there; `gistrec doctor` says which is.",
    "RAY_ADDRESS": "The Ray cluster of `gistrec state build --engine ray`; without it, this "
    "machine.",
    "MLFLOW_EXPERIMENT_NAME": "The experiment of runs that are told to MLflow; `gistrec` if it is "
    "not set. MLflow's own variables count as well.",
    "RANK": "With `LOCAL_RANK` and others set by `torchrun`: which of several training processes "
    "this one is.",
    "LOCAL_RANK": "The same on its machine.",
    "PROMETHEUS_MULTIPROC_DIR": "Folder in which server processes keep their counters. The server "
    "makes one of its own and removes it; there is no need to set it.",
}
"""Variables of the environment that something in gistrec, or below it, reads."""


def page() -> str:
    """The text of the page."""
    parts = [
        "# Settings",
        MADE,
        "Every option of a verb stands in the [command line's reference](cli.md); this page has "
        "what lies behind and beside them. There is no configuration file for the server: options "
        "and the store's own settings are all there is.",
        "## Environment",
        _table("variable", ENVIRONMENT.items()),
        "## Server",
        "`gistrec.server.Settings`, by options of the same names of "
        "[`gistrec serve`](cli.md#gistrec-serve); `keys` is a file made by `gistrec keys`.",
        _fields(Settings),
        "## Training",
        "`gistrec.train.Training`: keyword arguments of `train(...)`, options of "
        "[`gistrec train`](cli.md#gistrec-train), and keys of a TOML file given with `--config`.",
        _fields(Training),
        "## Run files",
        "A run file is TOML with options of `gistrec train`, hyphens written as underscores. "
        "`gistrec plan` writes one, and every model folder holds that of its own training as "
        "`run.toml`. Its tables `[log]` and `[plan]` are facts and no options.",
        "## Settings in a store",
        "Shared by all servers of a store, which follow a change within a second or two: set by "
        "[`gistrec state limit`](cli.md#gistrec-state-limit) and "
        "[`gistrec state switch`](cli.md#gistrec-state-switch), and stored as "
        "[state-format.md](state-format.md#settings) says.",
        _fields(store_settings.Settings),
        "## Stores",
        "Options stand in the URL, such as `lmdb://users?sync=full&map_size=64g`; they are "
        "described with [lmdb](methods.md#lmdb) and [redis](methods.md#redis).",
    ]
    return "\n\n".join(parts) + "\n"


def _fields(cls: type[Any]) -> str:
    """A table of a class's fields, from the text under each."""
    helps = {
        p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(cls).params
    }
    defaults = {
        f.name: f.default
        for f in (
            msgspec.structs.fields(cls)
            if issubclass(cls, msgspec.Struct)
            else dataclasses.fields(cls)
        )
    }
    defaults["in_flight"] = "number of processors"  # of the machine that makes this page
    rows = []
    for name, text in helps.items():
        default = defaults[name]
        # a default that is made for each object has no text that stays
        known = default not in (None, "", dataclasses.MISSING, msgspec.NODEFAULT)
        rows.append((name, f"{text} Default: `{default}`." if known else text))
    return _table("field", rows)


def _table(title: str, rows: Any) -> str:
    lines = [f"| `{name}` | {' '.join(text.split())} |" for name, text in rows]
    return "\n".join([f"| {title} | meaning |", "|---|---|", *lines])

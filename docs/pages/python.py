"""`docs/python.md`: what can be imported, from its docstrings."""

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType, ModuleType, NoneType
from typing import Any

import docstring_parser

import gistrec
from gistrec.reference_docs import MADE

MODULES = (
    "build",
    "measure",
    "summary",
    "batch_requests",
    "transfer",
    "cascade",
    "vectors",
    "trackers",
    "plan",
    "report",
    "store_stats",
    "sweep",
    "store_settings",
    "stores",
    "state",
    "codecs",
    "memories",
    "backbones",
    "events",
    "impressions",
    "errors",
    "server",
    "testing",
)
"""Beside the names of `gistrec` itself: what programs, and files of new methods, import from."""


def page() -> str:
    """The text of the page."""
    parts = [
        "# Python",
        MADE,
        f"`from gistrec import ...` gives the {len(gistrec.__all__)} names of the first section; "
        "they are loaded when they are used. The modules behind them are for programs that need "
        "more, and for files of new methods.",
        "## gistrec",
        *(_entry("gistrec", name, getattr(gistrec, name)) for name in gistrec.__all__),
    ]
    for name in MODULES:
        parts += _module(importlib.import_module(f"gistrec.{name}"))
    return "\n\n".join(parts) + "\n"


def _module(module: ModuleType) -> Iterator[str]:
    yield f"## {module.__name__}"
    yield _prose(inspect.getdoc(module) or "")
    for name in getattr(module, "__all__", None) or _defined(module):
        found = getattr(module, name)
        if found in [getattr(gistrec, n) for n in gistrec.__all__]:
            yield f"`{name}`: see [gistrec](#gistrec{name.lower()})."
        elif callable(found):
            yield _entry(module.__name__, name, found)


def _defined(module: ModuleType) -> list[str]:
    """Classes and functions of the module or, where it is a package, of its private parts."""
    return [
        name
        for name, found in vars(module).items()
        if not name.startswith("_")
        and inspect.isroutine(found) | inspect.isclass(found)
        and re.fullmatch(rf"{module.__name__}(\._\w+)?", getattr(found, "__module__", ""))
    ]


def _entry(module: str, name: str, found: Any) -> str:
    """A function, or a class with its fields and methods."""
    parts = [f"### {module}.{name}", _signature(name, found), _documentation(found)]
    if inspect.isclass(found):
        rows = [_method(member, value) for member, value in vars(found).items()]
        parts += (
            ["\n".join(["| member | does |", "|---|---|", *filter(None, rows)])]
            if any(rows)
            else []
        )
    return "\n\n".join(filter(None, parts))


def _method(name: str, value: Any) -> str:
    """A row of a class's table; empty for what is private or says nothing."""
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    if isinstance(value, property | cached_property):
        function, shown = value.fget if isinstance(value, property) else value.func, f"`{name}`"
    elif isinstance(function, FunctionType):
        shown = f"`{name}{_parameters(function, skip=not isinstance(value, staticmethod))}`"
    else:
        return ""
    about = docstring_parser.parse(inspect.getdoc(function) or "")
    text = [about.short_description or ""]
    text += [f"`{p.arg_name}`: {p.description}" for p in about.params]
    text += [f"Raises `{r.type_name}`: {r.description}" for r in about.raises]
    if name.startswith("_") or not text[0]:
        return ""
    return f"| {shown.replace('|', chr(92) + '|')} | {_cell(' '.join(filter(None, text)))} |"


def _documentation(found: Any) -> str:
    about = docstring_parser.parse_from_object(found) if inspect.isclass(found) else None
    about = about or docstring_parser.parse(inspect.getdoc(found) or "")
    lines = [_prose("\n\n".join(filter(None, (about.short_description, about.long_description))))]
    rows = [(p.arg_name, p.description or "") for p in about.params]
    if rows:
        table = [f"| `{name}` | {_cell(text)} |" for name, text in rows]
        lines.append("\n".join(["| argument or field | meaning |", "|---|---|", *table]))
    raises = [f"`{r.type_name}`: {_cell(r.description or '')}" for r in about.raises]
    lines += [f"Raises {'; '.join(raises)}"] if raises else []
    return "\n\n".join(filter(None, lines))


def _signature(name: str, found: Any) -> str:
    if inspect.isclass(found) and issubclass(found, BaseException):
        bases = ", ".join(b.__name__ for b in found.__bases__)
        return f"```python\nclass {name}({bases})\n```"
    parameters = _parameters(found)
    shown = f"{name}{parameters}"
    if len(shown) > 88:
        inner = ",\n    ".join(_split(parameters))
        shown = f"{name}(\n    {inner},\n)"
    return f"```python\n{shown}\n```"


def _parameters(found: Any, *, skip: bool = False) -> str:
    """What stands in the brackets: names and defaults; types are in the code."""
    try:
        signature = inspect.signature(found)
    except ValueError:
        return "()"
    kept = list(signature.parameters.values())[int(skip) :]
    bare = [p.replace(annotation=p.empty, default=_shown(p.default)) for p in kept]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


class _Name:
    """A default that is shown by name, because its repr is long or has an address."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown(default: Any) -> Any:
    if isinstance(default, str):  # quoted as ruff does, which formats code in Markdown as well
        return _Name(json.dumps(default, ensure_ascii=False))
    plain = (int, float, bool, tuple, frozenset, NoneType)
    known = default is inspect.Parameter.empty or isinstance(default, plain)
    return default if known else _Name("...")


def _split(parameters: str) -> list[str]:
    """The parameters one by one; commas inside brackets do not part them."""
    return re.split(r", (?![^(]*\))", parameters[1:-1])


def _prose(text: str) -> str:
    """A docstring as Markdown: what is indented in it is shown as it stands."""
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

"""What there is to choose from, read from the code: for the command line and `docs/methods.md`."""

import difflib
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docstring_parser

from gistrec import registry
from gistrec.errors import ConfigError
from gistrec.registry import FAMILIES, Family

MADE = "<!-- Made by `make fix`; do not edit. -->"


@dataclass(frozen=True)
class Option:
    """An option of a method."""

    name: str
    default: Any
    """None where it is required."""
    required: bool
    help: str


@dataclass(frozen=True)
class Method:
    """A component of the registry, as its file describes it."""

    family: Family
    name: str
    summary: str
    """The first line of its file."""
    text: str
    """What its file and its class say, options aside."""
    options: tuple[Option, ...]

    @property
    def usage(self) -> str:
        """How it is written: `recent(keep, sink=4)`, `lmdb://path?sync=on`."""
        if self.family == "stores":
            query = "&".join(f"{o.name}={o.default}" for o in self.options)
            return f"{self.name}://path" + (f"?{query}" if query else "")
        given = (o.name if o.required else f"{o.name}={o.default!r}" for o in self.options)
        return f"{self.name}({', '.join(given)})"


def methods(family: Family | None = None) -> list[Method]:
    """All components, or those of a family, by family and name."""
    families = FAMILIES if family is None else [family]
    return [_describe(f, name) for f in families for name in registry.names(f)]


def method(name: str, family: Family | None = None) -> list[Method]:
    """The components of a name; families may share one.

    Raises:
        ConfigError: there is none.
    """
    everything = methods(family)
    found = [m for m in everything if m.name == name.lower()]
    if not found:
        names = sorted({m.name for m in everything})
        near = difflib.get_close_matches(name.lower(), names, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown method {name!r}: {guess}allowed: {', '.join(names)}")
    return found


def _describe(family: Family, name: str) -> Method:
    cls = registry.find(family, name)
    module_text = inspect.getdoc(sys.modules[cls.__module__]) or ""
    about = docstring_parser.parse(inspect.getdoc(cls) or "")
    return Method(
        family,
        name,
        module_text.partition("\n")[0],
        "\n\n".join(filter(None, (module_text, about.description))),
        _options(family, cls),
    )


def _options(family: Family, cls: type[Any]) -> tuple[Option, ...]:
    bases = importlib.import_module(f"gistrec.{family}").COMPONENT_BASES
    if family == "stores":  # their options stand in the URL
        parameters = inspect.signature(cls.open).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    else:
        # what the base takes (sizes of the catalogue or the layer), the program supplies
        found = registry.options_of(cls, skip=inspect.signature(bases[0]).parameters)
    helps = {
        p.arg_name: " ".join((p.description or "").split())
        for base in reversed(cls.__mro__)
        if issubclass(base, bases)
        for p in docstring_parser.parse_from_object(base).params
    }
    return tuple(
        Option(name, None if default is ... else default, default is ..., helps.get(name, ""))
        for name, default in found.items()
    )


def listing(found: Sequence[Method]) -> str:
    """How each is written and what it does, for a terminal."""
    lines = []
    for family in dict.fromkeys(m.family for m in found):
        lines += ["", family]
        for m in found:
            if m.family == family:
                lines += textwrap.wrap(m.usage, 96, initial_indent="  ", subsequent_indent="    ")
                lines.append(f"      {m.summary}")
    return "\n".join(lines[1:])


def description(found: Method) -> str:
    """All that its file says, for a terminal."""
    lines = [f"{found.usage}    [{found.family}]", "", found.text]
    for o in found.options:
        head = f"{o.name} ({'required' if o.required else repr(o.default)})"
        lines += ["", f"  {head}", textwrap.indent(textwrap.fill(o.help, 90), "      ")]
    return "\n".join(lines)


def methods_page(
    only: Family | None = None, *, measured: Mapping[tuple[Family, str], str] | None = None
) -> str:
    """The text of `docs/methods.md`, or what it says about one family.

    Args:
        only: The family.
        measured: By family and name, what was measured, as Markdown.
    """
    parts = [
        "# Methods",
        MADE,
        "Every name below is the name of a file in `src/gistrec/<family>/`, and "
        "`gistrec methods NAME` prints what stands here.",
    ]
    for family in FAMILIES if only is None else [only]:
        package = importlib.import_module(f"gistrec.{family}")
        found = methods(family)
        parts += [f"## {family}", (inspect.getdoc(package) or "").partition("\n")[0]]
        rows = [f"| [`{m.name}`](#{m.name}) | {m.summary} |" for m in found]
        parts.append("\n".join(["| name | does |", "|---|---|", *rows]))
        for m in found:
            parts.append(section(m))
            parts += [said] if (said := (measured or {}).get((family, m.name))) else []
    return "\n\n".join(parts) + "\n"


def section(found: Method) -> str:
    """All that its file says, as Markdown."""
    text = re.sub(r"^(Level|Source|Differs|Cost):", r"\n**\1**:", found.text, flags=re.MULTILINE)
    parts = [f"### {found.name}", f"`{found.usage}`", re.sub(r"\n{3,}", "\n\n", text)]
    if found.options:
        rows = [
            f"| `{o.name}` | {'required' if o.required else f'`{o.default!r}`'} | {o.help} |"
            for o in found.options
        ]
        parts.append("\n".join(["| option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)

"""Family and name -> class, and the spec strings that name components everywhere.

A component's name is its file's name: `recent(keep=64)` is the one public concrete subclass of
`Codec` in `gistrec/codecs/recent.py`. There is no list to keep. Packages can add components through
an entry-point group per family (`gistrec.codecs`, ...); a name that exists twice is an error.

Grammar: `name(option=literal, ...)`, chained with `|`; the parentheses may be left out.
Literals only (numbers, strings, booleans, None, tuples): read with `ast`, never evaluated.
"""

import ast
import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from gistrec.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Family = Literal["events", "impressions", "memories", "backbones", "codecs", "stores"]
FAMILIES: tuple[Family, ...] = (
    "events",
    "impressions",
    "memories",
    "backbones",
    "codecs",
    "stores",
)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A component's name and options, as written in a spec string.

    >>> str(Spec("recent", {"keep": 64}))
    'recent(keep=64)'
    """

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


def parse_spec(text: str) -> list[Spec]:
    """Read a spec string into its parts, left to right.

    >>> [str(part) for part in parse_spec("recent(keep=4) | int8")]
    ['recent(keep=4)', 'int8()']

    Raises:
        ConfigError: the text does not follow the grammar.
    """

    def fail(why: str) -> ConfigError:
        return ConfigError(
            f"can't read the spec {text!r}: {why}; write name(option=literal), chained with '|', "
            'for example "recent(keep=256, sink=4) | int8()"'
        )

    try:
        # `1or 2` and '\\d' are but warnings to Python, which would be printed
        with warnings.catch_warnings(action="error"):
            node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise fail(error.msg) from None
    calls: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        calls.append(node.right)
        node = node.left
    calls.append(node)
    parts = []
    for call in reversed(calls):
        if isinstance(call, ast.Name):
            parts.append(Spec(call.id))
            continue
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise fail("a part is not of the form name(option=literal)")
        if call.args:
            raise fail(f"{call.func.id} got an option without a name")
        options = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise fail("** is not allowed")
            try:
                options[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                raise fail(f"the value of {keyword.arg} is not a literal") from None
        parts.append(Spec(call.func.id, options))
    return parts


def _declared(family: Family) -> "Iterable[EntryPoint]":
    """By packages."""
    from importlib.metadata import entry_points  # which help does not need

    return entry_points(group=f"gistrec.{family}")


def names(family: Family) -> list[str]:
    """All component names of a family, sorted; imports nothing of them."""
    package = importlib.import_module(f"gistrec.{family}")
    found = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    found += [point.name for point in _declared(family)]
    return sorted(found)


def _unknown(what: str, given: str, allowed: Iterable[str], hint: str = "") -> ConfigError:
    allowed = sorted(allowed)
    near = difflib.get_close_matches(given, allowed, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown {what} {given!r}: {guess}allowed: {', '.join(allowed)}{hint}")


_SINGULAR = {
    "events": "event source",
    "impressions": "impression source",
    "memories": "memory",
    "backbones": "backbone",
    "codecs": "codec",
    "stores": "store",
}


@cache
def find(family: Family, name: str) -> type[Any]:
    """The class behind a name: the one public concrete component class of the module.

    Raises:
        ConfigError: no such name (with the nearest one), or a module that breaks the rule.
    """
    package = importlib.import_module(f"gistrec.{family}")
    bases: tuple[type, ...] = package.COMPONENT_BASES
    name = name.lower()  # so that a dataclass's repr, `Recent(keep=4)`, is a spec too
    points = [point for point in _declared(family) if point.name == name]
    builtin = [m.name for m in pkgutil.iter_modules(package.__path__)]
    if points and (name in builtin or len(points) > 1):
        raise ConfigError(f"two components are called {name!r} in {family}: remove one package")
    if points:
        found: type[Any] = points[0].load()
        return found
    if name not in builtin or name.startswith("_"):
        raise _unknown(_SINGULAR[family], name, names(family), hint=" (details: gistrec methods)")
    module = importlib.import_module(f"gistrec.{family}.{name}")
    classes = [
        c
        for c in vars(module).values()
        if isinstance(c, type)
        and c.__module__ == module.__name__
        and issubclass(c, bases)
        and not inspect.isabstract(c)
        and not c.__name__.startswith("_")
    ]
    if len(classes) != 1:
        raise ConfigError(
            f"gistrec/{family}/{name}.py must hold exactly one public component class, "
            f"found {[c.__name__ for c in classes]}"
        )
    return classes[0]


def build(family: Family, spec: Spec, **context: Any) -> Any:
    """Make one component from a parsed spec.

    Args:
        family: Which family the name belongs to.
        spec: Name and options.
        **context: Arguments that the program supplies (`num_items`, ...), not part of the spec.

    Raises:
        ConfigError: unknown name or option, or a value of the wrong type.
    """
    cls = find(family, spec.name)
    parameters = inspect.signature(cls).parameters
    if dataclasses.is_dataclass(cls):
        hidden = {f.name for f in dataclasses.fields(cls) if not f.repr}
        parameters = {k: v for k, v in parameters.items() if k not in hidden}  # type: ignore[assignment]  # a mapping either way
    allowed = [p for p in parameters if p not in context]
    for option, value in spec.options.items():
        if option not in allowed:
            raise _unknown(f"option of {spec.name}", option, allowed or ["(none)"])
        _check_type(spec.name, option, value, parameters[option].annotation)
    missing = [
        p
        for p in allowed
        if parameters[p].default is inspect.Parameter.empty
        and p not in spec.options
        and parameters[p].kind is not inspect.Parameter.VAR_KEYWORD
    ]
    if missing:
        raise ConfigError(
            f"{spec.name} needs {', '.join(missing)}: write {spec.name}({missing[0]}=...)"
        )
    return cls(**context, **spec.options)


_PLAIN = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}


def _check_type(name: str, option: str, value: Any, annotation: Any) -> None:
    if annotation not in _PLAIN:
        return
    good = isinstance(value, annotation) or (annotation is float and isinstance(value, int))
    if not good or (isinstance(value, bool) and annotation is not bool):
        raise ConfigError(f"{name}({option}=...) takes {_PLAIN[annotation]}, given {value!r}")


def options_of(cls: type[Any], *, skip: Iterable[str] = ()) -> dict[str, Any]:
    """Option names and defaults of a component class, for help texts (required ones: `...`)."""
    hidden = set(skip)
    if dataclasses.is_dataclass(cls):
        hidden |= {f.name for f in dataclasses.fields(cls) if not f.repr}
    return {
        n: (... if p.default is inspect.Parameter.empty else p.default)
        for n, p in inspect.signature(cls).parameters.items()
        if n not in hidden
    }


def spec_of(component: Any) -> Spec:
    """The spec of a dataclass component: its file's name and the fields that its repr shows."""
    name = type(component).__module__.rsplit(".", 1)[-1]
    options = {f.name: getattr(component, f.name) for f in dataclasses.fields(component) if f.repr}
    return Spec(name, options)

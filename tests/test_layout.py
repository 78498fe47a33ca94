"""The folder listing is the architecture: what every method brings along, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

from gistrec import registry
from gistrec.standings import LEVELS

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "src" / "gistrec", ROOT / "tests"
MAX_LINES = 400
OF_THE_PROJECT = {
    "test_fuzz.py",
    "test_layout.py",
    "test_parity.py",
    "test_public.py",
}
"""Tests of something else than one module."""


def methods(*families: str) -> list[Path]:
    """The files of all methods, relative to the package."""
    found = [p for family in families for p in sorted((PACKAGE / family).glob("*.py"))]
    return [p.relative_to(PACKAGE) for p in found if not p.name.startswith("_")]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def docstring(method: Path) -> str:
    return ast.get_docstring(ast.parse((PACKAGE / method).read_text())) or ""


@pytest.mark.parametrize("method", methods(*registry.FAMILIES), ids=str)
def test_a_method_has_a_docstring_and_a_test(method: Path):
    assert docstring(method)
    assert (TESTS / method.parent / f"test_{method.name}").is_file()


@pytest.mark.parametrize("method", methods("codecs", "memories", "backbones"), ids=str)
def test_a_method_says_where_it_is_from_how_it_differs_and_what_it_costs(method: Path):
    said = [line.partition(":")[0] for line in docstring(method).splitlines()]
    assert [word for word in said if word in ("Source", "Differs", "Cost")] == [
        "Source",
        "Differs",
        "Cost",
    ]


@pytest.mark.parametrize("method", methods("codecs", "memories", "backbones"), ids=str)
def test_a_method_says_at_which_level_it_saves(method: Path):
    (level,) = re.findall(r"^Level: (.+)\nSource:", docstring(method), re.MULTILINE)
    assert level in LEVELS


@pytest.mark.parametrize("method", methods("codecs"), ids=str)
def test_a_codec_has_golden_files(method: Path):
    assert (TESTS / "golden" / "codecs" / method.stem / "spec.txt").is_file()


@pytest.mark.parametrize("method", methods("backbones"), ids=str)
def test_a_backbone_has_golden_losses(method: Path):
    assert (TESTS / "golden" / "backbones" / f"{method.stem}.losses.txt").is_file()


def test_tests_mirror_the_package():
    astray = []
    for path in sorted(TESTS.rglob("test_*.py")):
        tested = PACKAGE / path.relative_to(TESTS).with_name(path.stem.removeprefix("test_"))
        if (
            path.name not in OF_THE_PROJECT
            and path.parent != TESTS / "docs"
            and not (tested.is_dir() or tested.with_suffix(".py").is_file())
        ):
            astray.append(str(path.relative_to(TESTS)))
    assert not astray, "a test's path is that of the module that it tests"


def test_no_file_is_too_long_to_be_read():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in sources()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_only_the_registry_knows_the_methods():
    """Nothing imports a method's module, and no literal names four methods of a family.

    Specs that call methods, such as a benchmark's `lowrank(rank=8)`, are no list.
    """
    modules = {f"gistrec.{m.parent}.{m.stem}" for m in methods(*registry.FAMILIES)}
    names = {family: {m.stem for m in methods(family)} for family in registry.FAMILIES}
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                found |= {(path.name, node.lineno, m) for m in modules & imported}
            elif isinstance(node, LITERALS):
                families = [f for f in names if len(words(node) & names[f]) >= 4]
                found |= {(path.name, node.lineno, f"a list of {f}") for f in families}
    assert not found, "ask gistrec.registry instead"


LITERALS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.JoinedStr, ast.Constant)


def words(literal: ast.AST) -> set[str]:
    texts = [n.value for n in ast.walk(literal) if isinstance(n, ast.Constant)]
    return {
        word
        for text in texts
        if isinstance(text, str)
        for word in re.findall(r"\b\w+\b(?!\()", text)
    }

"""The reference is complete and current: public names, options, routes, metrics, variables."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

import gistrec
from gistrec.cli import app
from gistrec.server.routes import OPERATIONS

ROOT = Path(__file__).parents[2]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "gistrec"


def text(name: str) -> str:
    return (DOCS / name).read_text()


def test_generated_parts_are_current(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    written = runpy.run_path(str(DOCS / "generate.py"))["generated"]()
    stale = [str(p.relative_to(ROOT)) for p, made in written.items() if p.read_text() != made]
    assert not stale, "run `make fix`"


def test_every_public_name_appears():
    assert [n for n in gistrec.__all__ if f"\n### gistrec.{n}\n" not in text("python.md")] == []


def test_what_the_pages_import_appears():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    imports = re.findall(
        r"^from (gistrec[\w.]*) import (.+)$", "\n".join(p.read_text() for p in pages), re.M
    )
    used = {f"{module}.{n}" for module, names in imports for n in names.split(", ")}
    shown = set(re.findall(r"^### (\S+)$", text("python.md"), re.M))
    assert used - shown == set()


def options(command, path: str):
    """Every option of a command and of those below it, with the command's heading."""
    if command.default_command:
        for argument in command.assemble_argument_collection():
            yield from ((path, name) for name in argument.names if name.startswith("--"))
    for name in command:
        if not name.startswith("-"):
            yield from options(command[name], f"{path} {name}")


def test_every_option_appears():
    sections = re.split(r"^##+ ", text("cli.md"), flags=re.M)
    by_command = {section.partition("\n")[0]: section for section in sections}
    missing = [
        f"{path} {name}"
        for path, name in options(app, "gistrec")
        if not re.search(rf"{name}\b", by_command.get(path, ""))
        and not re.fullmatch(r"--(no|empty)-.+", name)
    ]
    assert missing == []


def test_every_route_appears():
    page = text("http.md")
    assert [o.path for o in OPERATIONS if f"`{o.method} {o.path}`" not in page] == []


def test_every_metric_appears():
    sources = "\n".join(p.read_text() for p in (PACKAGE / "server").glob("*.py"))
    names = set(re.findall(r'"(gistrec_[a-z_]+)"', sources))
    assert len(names) >= 6
    assert [n for n in names if not re.search(rf"`{n}(_total|_bucket)?`", text("metrics.md"))] == []


def test_every_variable_of_the_environment_appears():
    sources = "\n".join(p.read_text() for p in PACKAGE.rglob("*.py"))
    names = set(re.findall(r'environ(?:\.\w+)?[\[(]"([A-Z_]+)"', sources))
    assert "GISTREC_KERNELS" in names
    assert [n for n in names if f"| `{n}` |" not in text("settings.md")] == []


def test_every_module_has_its_sentence():
    modules = {p.stem for p in PACKAGE.iterdir() if p.suffix in ("", ".py")}
    modules -= {"__init__", "__main__", "__pycache__", "py"}
    assert {m for m in modules if f"`{m}`" not in text("architecture.md")} == set()


def pages_in(nav) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set().union(*map(pages_in, parts))


def test_every_page_is_in_the_navigation():
    nav = pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}
    assert nav == {p for p in there if not p.startswith("log/20")}


@pytest.mark.parametrize("note", sorted((DOCS / "log").glob("20*.md")), ids=lambda p: p.name)
def test_every_note_is_listed(note):
    assert f"({note.name})" in text("log/index.md")

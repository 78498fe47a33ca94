"""What the documents say is so: examples run, commands exist, links lead somewhere."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from gistrec.cli import app, main

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def commands(*pages: str) -> list[list[str]]:
    """The lines for a shell, as words."""
    blocks = [block for page in pages for block in code_blocks(page, "sh")]
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def gistrec_commands() -> list[list[str]]:
    return [words[1:] for words in commands("README.md") if words[0] == "gistrec"]


def test_the_python_quick_start_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (make_log,) = [words for words in gistrec_commands() if words[:2] == ["data", "make"]]
    assert main(make_log) == 0
    (block,) = code_blocks("README.md", "python")
    exec(compile(block, "README.md", "exec"), {})
    assert re.search(r"\d+ bytes kept of ada", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_lines_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in gistrec_commands():
        answer_once = ["--get", "/v1/users/ada/recommendations"] if words[0] == "serve" else []
        assert main([*words, *answer_once]) == 0, words


@pytest.mark.slow
def test_adding_a_method_goes_as_contributing_says(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src")
    for name in ("pyproject.toml", "tests/conftest.py", "tests/golden/write.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # the installed package's finder knows no method that was added in a copy
    copy_first = (
        'import sys; sys.meta_path = [f for f in sys.meta_path if "skbc" not in f.__module__]'
    )
    (tmp_path / "src" / "sitecustomize.py").write_text(copy_first)
    paths = re.findall(r"Create `(.+?)`", (ROOT / "CONTRIBUTING.md").read_text())
    for path, code in zip(paths, code_blocks("CONTRIBUTING.md", "python"), strict=True):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code)
    steps = ["tests/golden/write.py", f"-m pytest {paths[1]}", f"-m ruff check {paths[0]}"]
    for step in [*steps, f"-m mypy {paths[0]}"]:
        subprocess.run(
            [sys.executable, *step.split()],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
            check=True,
        )


@pytest.mark.parametrize("words", commands("README.md", "CONTRIBUTING.md"), ids=" ".join)
def test_a_command_of_the_documents_exists(words):
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(rest) <= set(targets)
    elif program.removeprefix(".venv/bin/") == "gistrec":
        app.parse_args(rest, exit_on_error=False, print_error=False)
    else:
        assert program == ".venv/bin/pytest"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    dead = []
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            dead.append(link)
    assert not dead


def test_generated_parts_are_current():
    written = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]()
    stale = [str(p.relative_to(ROOT)) for p, text in written.items() if p.read_text() != text]
    assert not stale, "run `make fix`"


def test_every_module_has_its_sentence():
    page = (ROOT / "docs" / "architecture.md").read_text()
    modules = {p.stem for p in (ROOT / "src" / "gistrec").iterdir() if p.suffix in ("", ".py")}
    modules -= {"__init__", "__main__", "__pycache__", "py"}
    assert {m for m in modules if f"`{m}`" not in page} == set()

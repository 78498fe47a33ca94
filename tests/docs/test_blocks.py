"""Code of the pages runs as it stands there: each page is one session of a stranger's shell.

Before a block that is not run stands `<!-- not run: why -->`. A server that a page starts goes on
in the background; hosts that a page names are replaced by servers of the test's own.
"""

import ast
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gistrec.cli import app
from gistrec.testing.servers import ValkeyServer, free_port, valkey_cluster

ROOT = Path(__file__).parents[2]
PAGES = [p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
RUN, SHOWN = ("sh", "python"), ("text", "json", "toml", "console", "hex")
ELSEWHERE = {
    "CONTRIBUTING.md": "below, as a new method in a copy of the package",
    "docs/notebook.md": "test_notebook.py, where it comes from",
    "docs/python.md": "signatures are no programs",
}
BEFORE = {
    "dashboard.md": """
gistrec data make "synthetic(users=30, items=60, length=30)" --out log.parquet
gistrec train --data log.parquet --epochs 1 --codec "recent(keep=8) | int8()" --out model
gistrec bench --data log.parquet --model model --codec "recent(keep=8) | int8()"
python - <<'END'
import duckdb
duckdb.sql("COPY (SELECT 1 AS item_id, 'One' AS title) TO 'items.parquet'")
END
""",
    "rollout.md": """
gistrec data make "synthetic(users=30, items=60, length=30)" --out log.parquet
gistrec train --data log.parquet --epochs 1 --codec "recent(keep=8) | int8()" --out old
gistrec train --data log.parquet --epochs 1 --seed 1 --codec "rvq(levels=1)" --out new
gistrec import log.parquet --store redis://host:6379/0
""",
}
"""What a page takes for granted."""
A_VERSION = """$(gistrec state stats --store redis://host:6379/0 --json | python -c '
import json, sys
found = json.load(sys.stdin)["versions"]
print(next(v["version"] for v in found if not v["serving"]))')"""
"""Of the states that may be dropped: those that do not serve."""


class Block(NamedTuple):
    language: str
    text: str
    why_not: str
    """Why it is not run; empty if it is."""


def blocks(page: Path | str) -> list[Block]:
    found = re.findall(
        r"(?:^<!-- not run: ([^>]+) -->\n)?^```(\w*)\n(.*?)^```",
        (ROOT / page).read_text(),
        re.M | re.S,
    )
    return [Block(language, text, why_not) for why_not, language, text in found]


def is_run(page: Path) -> bool:
    return str(page) not in ELSEWHERE and any(
        b.language in RUN and not b.why_not for b in blocks(page)
    )


def programs(language: str) -> list[tuple[str, str]]:
    return [
        (str(page), block.text)
        for page in PAGES
        if str(page) != "docs/python.md"
        for block in blocks(page)
        if block.language == language
    ]


def commands() -> list[str]:
    """Every call of gistrec or make that a page shows."""
    lines = [line for _, text in programs("sh") for line in text.replace("\\\n", "").splitlines()]
    return sorted({line for line in lines if re.match(r"(\.venv/bin/)?(gistrec|make)\b", line)})


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_has_a_language(page):
    assert {b.language for b in blocks(page)} <= {*RUN, *SHOWN}


def test_what_is_run_installs_nothing():
    run = [p for p in PAGES for b in blocks(p) if not b.why_not and "pip install" in b.text]
    assert run == []


@pytest.mark.parametrize("line", commands())
def test_a_command_exists(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text('data = "log.parquet"\n')  # is read with the options
    program, *rest = shlex.split(line, comments=True)
    rest = rest[: next((n for n, word in enumerate(rest) if word in (">", "|")), None)]
    if program == "make":
        assert set(rest) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    else:
        app.parse_args(rest, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(("page", "text"), programs("python"))
def test_what_python_imports_exists(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gistrec"):
            if str(node.module) == "gistrec.codecs.knorm":  # the one that CONTRIBUTING adds
                continue
            module = importlib.import_module(str(node.module))
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.parametrize(("page", "text"), programs("json"))
def test_json_is_json(page, text):
    json.loads(text)


@pytest.mark.parametrize(("page", "text"), programs("toml"))
def test_toml_is_toml(page, text):
    tomllib.loads(text)


@contextlib.contextmanager
def services(text: str, folder: Path) -> Iterator[dict[str, str]]:
    """What stands for the hosts that a page names."""
    with contextlib.ExitStack() as stack:
        replaced = {"127.0.0.1:8000": f"127.0.0.1:{free_port()}"}
        if "redis://node1:6379" in text:
            nodes = stack.enter_context(valkey_cluster(folder))
            replaced["redis://node1:6379"] = nodes[0].url
        if "redis://host:6379/0" in text:
            server = ValkeyServer(folder)
            server.start()
            stack.callback(server.kill)
            replaced["redis://host:6379/0"] = f"{server.url}/0"
        yield replaced


def script(page: Path) -> str:
    """A page's blocks as one script of bash."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    lines.append(BEFORE.get(page.name, ""))
    for block in blocks(page):
        if block.why_not or block.language not in RUN:
            continue
        if block.language == "python":
            lines.append(f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK")
        else:
            text = re.sub(
                r"^(gistrec serve (?!.*--get)[^\n#]*)[^\n]*$", served, block.text, flags=re.M
            )
            text = text.replace("curl -s ", "curl -s --fail-with-body ")
            lines.append(text.replace("1a2b3c4d", A_VERSION))
    return "\n".join(lines)


def served(line: re.Match[str]) -> str:
    """The line, in the background, and a wait until it answers."""
    return (
        f"{line[1]} --port ${{ADDRESS#*:}} &\n"
        "for n in $(seq 300); do curl -sf http://127.0.0.1:8000/readyz && break; sleep 0.2; done"
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [p for p in PAGES if is_run(p)], ids=str)
def test_a_page_runs(page, tmp_path):
    text = script(page)
    work, data = tmp_path / "work", tmp_path / "servers"
    work.mkdir()
    with services(text, data) as replaced:
        for name, own in replaced.items():
            text = text.replace(name, own)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "ADDRESS": replaced["127.0.0.1:8000"],
        }
        session = subprocess.Popen(
            ["bash", "-c", text],
            cwd=work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its servers can be ended with it
        )
        try:
            out, err = session.communicate(timeout=1100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session.pid, signal.SIGKILL)
    assert session.returncode == 0, f"{out[-2000:]}\n{err[-4000:]}"


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
    codes = [b.text for b in blocks("CONTRIBUTING.md") if b.language == "python"]
    for path, code in zip(paths, codes, strict=True):
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

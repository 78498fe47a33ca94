"""The site builds without a warning, and asks nobody for anything when it is read."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, made in a copy."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("mkdocs.yml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "docs"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    fetched = set()
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        fetched |= {t for t in tags if re.search(r'(?:src|href)="(?:https?:)?//', t)}
    assert {t for t in fetched if 'rel="canonical"' not in t} == set()


def test_styles_load_nothing_from_elsewhere(site):
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


def test_a_bar_in_a_tables_code_is_a_bar(site):
    page = (site / "catalogue.html").read_text()
    assert "<code>itemtable | stack | rvq</code>" in page


def test_the_method_guide_is_that_of_contributing(site):
    page = (site / "how-to" / "write-a-method.html").read_text()
    assert "Add a method in 10 minutes" in page
    assert "--8&lt;--" not in page

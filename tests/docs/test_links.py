"""Links lead somewhere: those inside the repository are followed, the others are looked at only."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return [*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(r"<(https?:[^>\s]+)>", prose)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    dead = []
    for link in links(page):
        if "://" in link:
            parts = urlsplit(link)
            if parts.scheme not in ("http", "https") or not re.match(r"[\w.-]+", parts.netloc):
                dead.append(link)
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            dead.append(link)
    assert not dead

"""`docs/log/index.md`: the dated notes, newest first; a note's title is its finding."""

from pathlib import Path

from gistrec.reference_docs import MADE


def page(folder: Path) -> str:
    """The text of the page."""
    lines = ["# Notes", "", MADE, "", "What was tried and what came out, failures included.", ""]
    for path in sorted(folder.glob("20*.md"), reverse=True):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"- {path.name[:10]} [{title}]({path.name})")
    return "\n".join(lines) + "\n"

"""`docs/notebook.md`: the committed notebook with its outputs, as a page of the site."""

import json
from pathlib import Path
from typing import Any

from gistrec.reference_docs import MADE


def page(path: Path) -> str:
    """The text of the page."""
    cells = json.loads(path.read_text())["cells"]
    title = "".join(cells[0]["source"])
    parts = [title, MADE]
    parts.append(f"This page is the notebook [{path.name}]({path.name}) with its outputs.")
    for cell in cells[1:]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += filter(None, map(_output, cell.get("outputs", [])))
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    """Markdown as it is, else text; what went to stderr is left out."""
    if output["output_type"] == "stream":
        text = "".join(output["text"]).rstrip()
        return f"```text\n{text}\n```" if output["name"] == "stdout" else ""
    data = output["data"]
    if "text/markdown" in data:
        return "".join(data["text/markdown"]).strip()
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"

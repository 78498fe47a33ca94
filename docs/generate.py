"""Write what is generated: pages of docs/ and the marked blocks of README (`make fix`)."""

from pathlib import Path

from pages import headline, metrics, notebook, notes, python, settings

from gistrec import cli, reference_docs, report, results, server, standings

ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Every generated file and the text it should have."""
    docs = ROOT / "docs"
    found = standings.of(results.load(docs / "results/catalogue.jsonl"))
    drawings = {docs / "results" / standings.drawing_name(s): standings.drawing(s) for s in found}
    pages = {
        "notebook.md": notebook.page(docs / "notebook.ipynb"),
        "catalogue.md": standings.page(found),
        "cli.md": cli.reference(),
        "http.md": server.http_reference(),
        "log/index.md": notes.page(docs / "log"),
        "methods.md": reference_docs.methods_page(measured=standings.measured(found)),
        "metrics.md": metrics.page(),
        "python.md": python.page(),
        "settings.md": settings.page(),
    }
    blocks = {
        "accuracy": report.accuracy_markdown(results.load(docs / "results/accuracy.jsonl")),
        "demo": report.to_markdown(results.load(docs / "results/demo.jsonl")),
        "headline": headline.block(found),
    }
    marked = (ROOT / "README.md", docs / "index.md", docs / "results.md")
    return (
        drawings
        | {docs / name: text for name, text in pages.items()}
        | {path: filled(path.read_text(), blocks) for path in marked}
    )


def filled(text: str, blocks: dict[str, str]) -> str:
    """A page with those of the blocks that it has markers for made anew."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}{block.strip()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)

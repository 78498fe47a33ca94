"""Write what is generated: pages of docs/ and the marked blocks of README (`make fix`)."""

from pathlib import Path

from gistrec import cli, reference_docs, report, results, server, standings

ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Every generated file and the text it should have."""
    rows = ROOT / "docs/results/catalogue.jsonl"
    found = standings.of(results.load(rows)) if rows.exists() else []
    catalogue = {ROOT / "docs/catalogue.md": standings.page(found)} if found else {}
    for one in found:
        catalogue[ROOT / "docs/results" / standings.drawing_name(one)] = standings.drawing(one)
    return catalogue | {
        ROOT / "README.md": readme((ROOT / "README.md").read_text()),
        ROOT / "docs/cli.md": cli.reference(),
        ROOT / "docs/http.md": server.http_reference(),
        ROOT / "docs/methods.md": reference_docs.methods_page(measured=standings.measured(found)),
    }


def readme(text: str) -> str:
    """README with its blocks made anew; those whose rows do not exist yet stay as they are."""
    blocks = {"methods": methods()}
    if (rows := ROOT / "docs/results/accuracy.jsonl").exists():
        blocks["accuracy"] = report.accuracy_markdown(results.load(rows))
    if (rows := ROOT / "docs/results/demo.jsonl").exists():
        blocks["demo"] = report.to_markdown(results.load(rows))
    for name, block in blocks.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{block.strip()}\n{end}{after}"
    return text


def methods() -> str:
    """A table of all methods, a row each."""
    rows = [
        f"| {m.family} | [`{m.name}`](docs/methods.md#{m.name}) | {m.summary} |"
        for m in reference_docs.methods()
    ]
    return "\n".join(["| family | name | what it is |", "|---|---|---|", *rows])


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)

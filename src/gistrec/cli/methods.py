"""`gistrec methods`: what there is to choose from."""

from gistrec.cli._output import Output
from gistrec.registry import Family


def methods(
    name: str | None = None,
    /,
    *,
    family: Family | None = None,
    markdown: bool = False,
    output: Output = Output(),
) -> None:
    """List codecs, memories, backbones, stores and sources of logs.

    Args:
        name: Describe this one in full.
        family: Only this family.
        markdown: Print as in the documentation.
    """
    from gistrec import reference_docs as docs

    found = docs.methods(family) if name is None else docs.method(name, family)
    if name is not None:
        describe = docs.section if markdown else docs.description
        text = "\n\n".join(map(describe, found))
    else:
        text = docs.methods_page(family) if markdown else docs.listing(found)
    output.show({"methods": found}, text)

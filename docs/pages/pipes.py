r"""A Markdown extension for the site: `\|` in a table's code means `|`, as it does on GitHub."""

from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString


class _Pipes(Treeprocessor):
    def run(self, root: Element) -> None:
        for code in root.iterfind(".//td//code"):
            code.text = AtomicString((code.text or "").replace("\\|", "|"))


class Pipes(Extension):
    """Registers itself behind the treatment of code spans."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: D102
        md.treeprocessors.register(_Pipes(md), "pipes", 5)


def makeExtension() -> Pipes:
    """As Markdown asks for it by the module's name."""
    return Pipes()

"""Markdown extension: a docstring's ``> 0`` is text and its ``>>> f(1)`` code, never a quotation."""

from xml.etree.ElementTree import Element, SubElement

from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.util import AtomicString, code_escape


class DoctestExtension(Extension):
    """Doctests in place of quotations, which no page of this repository has."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Replace the processor of quotations."""
        md.parser.blockprocessors.deregister("quote")
        md.parser.blockprocessors.register(DoctestProcessor(md.parser), "doctest", 20)


class DoctestProcessor(BlockProcessor):
    """A block whose first line is a prompt becomes a code block."""

    def test(self, parent: Element, block: str) -> bool:
        """Whether the block is a doctest."""
        return block.startswith(">>> ")

    def run(self, parent: Element, blocks: list[str]) -> None:
        """Append the code block."""
        code = SubElement(SubElement(parent, "pre"), "code")
        code.text = AtomicString(code_escape(blocks.pop(0).rstrip() + "\n"))

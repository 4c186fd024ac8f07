"""For the documentation site: what a docstring says in plain text, as Markdown that means the same."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).*)*", re.M)
CODE = re.compile(r"(```.*?```|^ {4,}.*$)", re.S | re.M)


class Markdown(griffe.Extension):  # type: ignore[misc]
    """Doctests become code blocks, and brackets that follow each other don't become references."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""The docstring with fenced doctests.

    >>> print(as_markdown("Text [CLS] [SEP]."))
    Text [CLS] \[SEP].
    """
    fenced = DOCTEST.sub(lambda m: f"{m['indent']}```pycon\n{m[0]}\n{m['indent']}```", text)
    parts = CODE.split(fenced)
    for i in range(0, len(parts), 2):
        apart = re.sub(r"\](\s?)(?=\[)", r"]\1\\", parts[i])
        parts[i] = re.sub(r"(: |\n *)(?=>)", r"\1\\", apart)  # no quotations
    return "".join(parts)

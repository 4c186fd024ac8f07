"""Tokens of source code with their types: Python's own `tokenize`, tree-sitter for other languages.

Both continue after mistakes, so that fragments, and functions whose line breaks were taken out, are
read too.
"""

import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from projects.cocosoda.code.types import COMMENT, LANGUAGES, OTHER, TYPES, Language, leaf_type

_LITERALS = frozenset({"True", "False", "None"})
_SEPARATORS = frozenset("()[]{},;:.")
# what the parser takes for names where the line breaks that end Go's statements are gone
_GO_KEYWORDS = frozenset(
    (
        "break",
        "case",
        "chan",
        "const",
        "continue",
        "default",
        "defer",
        "else",
        "fallthrough",
        "for",
        "func",
        "go",
        "goto",
        "if",
        "import",
        "interface",
        "map",
        "package",
        "range",
        "return",
        "select",
        "struct",
        "switch",
        "type",
        "var",
    )
)
_LAYOUT = (
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
)
_PLAIN = re.compile(  # what is left of a Python text that `tokenize` gives up on
    r"""(?P<comment>\#[^\n]*)|(?P<string>'[^'\n]*'|"[^"\n]*")|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<number>\d[\w.]*)|(?P<other>[^\s\w])"""
)
# nodes that count as one token although the grammar divides them, unless code stands inside
_WHOLE = (
    "string",
    "string_literal",
    "interpreted_string_literal",
    "raw_string_literal",
    "encapsed_string",
    "character_literal",
    "regex",
    "template_string",
    "variable_name",
)
_INSIDE = ("interpolation", "template_substitution", "variable_name", "dynamic_variable_name")


# where names are divided: underscores, and before a capital after a small letter or digit
INNER_BORDERS = r"_+|(?<=[a-z0-9])(?=[A-Z])"


class Span(NamedTuple):
    """One token: ``code[start:end]``."""

    start: int
    end: int
    type: str  # one of `TYPES`, "comment" or "other"


def token_spans(code: str, language: Language) -> list[Span]:
    """Tokens of a piece of code in their order; white space and line breaks are none.

    Args:
        code: a function, a file, or any fragment.
        language: what it is written in.

    Raises:
        UserError: an unknown language.

    >>> [(s.start, s.type) for s in token_spans("return x1", "python")]
    [(0, 'keyword'), (7, 'identifier')]
    """
    if language not in LANGUAGES:
        raise UserError(f"no grammar for language '{language}', only for {', '.join(LANGUAGES)}")
    return list(_python(code) if language == "python" else _leaves(code, language))


def plain_code(code: str, language: Language) -> str:
    r"""Tokens separated by single spaces, without comments: what code search encodes.

    Source: Husain et al. 2019, "CodeSearchNet", section 2 (tokens of a syntax tree), arXiv
    1909.09436.

    Args:
        code: see `token_spans`.
        language: see `token_spans`.

    >>> plain_code("def f(a):  # add\n    return a+1", "python")
    'def f ( a ) : return a + 1'
    """
    spans = token_spans(code, language)
    return " ".join(code[s.start : s.end] for s in spans if s.type != COMMENT)


def split_identifiers(text: str) -> str:
    """Parts of names as words of their own.

    >>> split_identifiers("read_jsonLines(x)")
    'read json Lines(x)'
    """
    return re.sub(INNER_BORDERS, " ", text)


def piece_types(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Type of every piece of a tokenizer: that of the token which holds its first character.

    Args:
        spans: of the text, in order.
        offsets: (start, end) of P pieces in the same text, as fast tokenizers report them.

    Returns:
        (P,) places in `TYPES`; -1 where a piece has no type that is one of them.
    """
    if not spans or not offsets:
        return np.full(len(offsets), -1)
    starts = np.array([span.start for span in spans])
    first = np.array([start for start, _ in offsets])
    token = np.searchsorted(starts, first, side="right") - 1
    places = np.array([TYPES.index(s.type) if s.type in TYPES else -1 for s in spans])
    inside = (token >= 0) & (first < np.array([span.end for span in spans])[token])
    return np.where(inside, places[token], -1)


def syntax_tree(code: bytes, language: Language) -> Any:
    """Root node of tree-sitter's tree; code with mistakes has one as well."""
    return _parser(language).parse(code).root_node


def _python(code: str) -> Iterator[Span]:
    lines = list(io.StringIO(code, newline=""))
    begin = np.cumsum([0, *(len(line) for line in lines)])
    done = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(code, newline="").readline):
            if token.type in _LAYOUT or not token.string.strip():
                continue
            start = int(begin[token.start[0] - 1]) + token.start[1]
            done = int(begin[token.end[0] - 1]) + token.end[1]
            yield Span(start, done, _python_type(token.type, token.string))
    except (tokenize.TokenError, SyntaxError, IndexError):  # an open bracket, a broken string
        for match in _PLAIN.finditer(code, done):
            kind = {
                "name": tokenize.NAME,
                "number": tokenize.NUMBER,
                "string": tokenize.STRING,
                "comment": tokenize.COMMENT,
            }.get(match.lastgroup or "", tokenize.OP)
            yield Span(*match.span(), _python_type(kind, match.group()))


def _python_type(kind: int, text: str) -> str:
    if kind == tokenize.NAME:
        if text in _LITERALS:
            return "literal"
        return "keyword" if keyword.iskeyword(text) else "identifier"
    if kind == tokenize.NUMBER:
        return "number"
    if kind == tokenize.OP:
        return "separators" if text in _SEPARATORS else "operator"
    if kind == tokenize.COMMENT:
        return COMMENT
    name = tokenize.tok_name[kind]  # f-strings have parts from Python 3.12 on
    return "string" if "STRING" in name else OTHER


def _leaves(code: str, language: Language) -> Iterator[Span]:
    source = code.encode()
    # byte -> character, where they differ
    wide = None if len(source) == len(code) else _characters(code, len(source))
    stack = [syntax_tree(source, language)]
    while stack:
        node = stack.pop()
        whole = node.type in _WHOLE and not any(child.type in _INSIDE for child in node.children)
        if node.child_count and not whole:
            stack += reversed(node.children)
            continue
        start, end = node.start_byte, node.end_byte
        if start == end:  # a token that the parser added
            continue
        if wide is not None:
            start, end = int(wide[start]), int(wide[end])
        text = code[start:end]
        reserved = language == "go" and text in _GO_KEYWORDS
        kind = "keyword" if reserved else leaf_type(node.type, text, node.is_named)
        yield Span(start, end, kind)


def _characters(code: str, size: int) -> NDArray[np.int64]:
    widths = [len(character.encode()) for character in code]
    character_of = np.zeros(size + 1, dtype=np.int64)
    character_of[:size] = np.repeat(np.arange(len(code)), widths)
    character_of[size] = len(code)
    return character_of


@cache
def _parser(language: Language) -> Any:
    import tree_sitter
    import tree_sitter_go
    import tree_sitter_java
    import tree_sitter_javascript
    import tree_sitter_php
    import tree_sitter_ruby

    grammars = {
        "go": tree_sitter_go.language,
        "java": tree_sitter_java.language,
        "javascript": tree_sitter_javascript.language,
        "php": tree_sitter_php.language_php_only,  # functions, without the text around <?php ?>
        "ruby": tree_sitter_ruby.language,
    }
    return tree_sitter.Parser(tree_sitter.Language(grammars[language]()))

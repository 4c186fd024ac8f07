"""Types of source-code tokens, in one vocabulary for all languages.

Leaves of a syntax tree have some hundred names over the grammars; what a token is for is the same
in all of them, so they are grouped. Source: Shi et al. 2023, "CoCoSoDa", section 3.2, arXiv
2204.03293 (keywords, separators and operators under names of their own, other leaves under the
grammar's).
"""

from typing import Literal, get_args

Language = Literal["go", "java", "javascript", "php", "python", "ruby"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
SUFFIXES: dict[str, Language] = {
    ".go": "go",
    ".java": "java",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".php": "php",
    ".py": "python",
    ".rb": "ruby",
}

Strategy = Literal[
    "mask", "replace", "replace_type", "mask_type"
]  # see projects.cocosoda.code.soda
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

TYPES = (
    "keyword",
    "identifier",
    "separators",
    "operator",
    "string",
    "number",
    "literal",
    "type_identifier",
    "field_identifier",
    "constant",
    "variable",
    "symbol",
    "escape_sequence",
    "regex",
)
COMMENT, OTHER = "comment", "other"  # never shown to an encoder; neither replaced nor chosen
_SHARED = ("keyword", "identifier", "separators", "operator", "string", "number", "literal")
TYPES_OF: dict[Language, tuple[str, ...]] = {
    "go": (*_SHARED, "type_identifier", "field_identifier"),
    "java": (*_SHARED, "type_identifier"),
    "javascript": (*_SHARED, "field_identifier", "regex"),
    "php": (*_SHARED, "variable"),
    "python": _SHARED,
    "ruby": (*_SHARED, "constant", "variable", "symbol"),
}

_SEPARATORS = frozenset("()[]{},;:.")
_NAMES = {
    "name": "identifier",
    "label_name": "identifier",
    "package_identifier": "identifier",
    "statement_identifier": "identifier",
    "shorthand_property_identifier": "identifier",
    "shorthand_property_identifier_pattern": "identifier",
    "property_identifier": "field_identifier",
    "private_property_identifier": "field_identifier",
    "void_type": "type_identifier",
    "boolean_type": "type_identifier",
    "primitive_type": "type_identifier",
    "variable_name": "variable",
    "instance_variable": "variable",
    "class_variable": "variable",
    "global_variable": "variable",
    "simple_symbol": "symbol",
    "hash_key_symbol": "symbol",
    "rune_literal": "string",
    "char_literal": "string",
    "boolean": "literal",
    "null_literal": "literal",
    **dict.fromkeys(("true", "false", "nil", "null", "none", "this", "self", "super"), "literal"),
}
# parts of a leaf's name, for what the grammars call by many names
_PARTS = (
    ("comment", COMMENT),
    ("escape", "escape_sequence"),
    ("regex", "regex"),
    ("string", "string"),
    ("character", "string"),
    ("heredoc", "string"),
    ("nowdoc", "string"),
    ("integer", "number"),
    ("int_literal", "number"),
    ("float", "number"),
    ("number", "number"),
)


def leaf_type(name: str, text: str, named: bool) -> str:
    """Type of a leaf of a syntax tree.

    Args:
        name: of the node in its grammar.
        text: that it covers.
        named: False for what a grammar writes out, such as keywords and operators.

    Returns:
        One of `TYPES`, "comment" or "other".

    >>> leaf_type("return", "return", False), leaf_type("decimal_integer_literal", "1", True)
    ('keyword', 'number')
    """
    if not named:
        if text and text in _SEPARATORS:
            return "separators"
        if text[:1].isalpha():
            return "keyword"
        return "string" if text in ('"', "'", "`") else "operator"
    if name in TYPES:
        return name
    if name in _NAMES:
        return _NAMES[name]
    return next((kind for part, kind in _PARTS if part in name), OTHER)


def type_token(name: str) -> str:
    """The piece that a tokenizer has for a type; it does not occur in code by chance."""
    return f"<type:{name}>"

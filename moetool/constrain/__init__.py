"""A schema, a grammar, a regex or a choice becomes a matcher over a model's vocabulary.

    source text --parse_*--> Constraint --make_matcher(tokenizer, ·)--> Matcher: mask, accept, commit
    TokenTable --make_tokenizer--> Tokenizer

Parsing needs no model: what cannot be enforced is refused before a model is loaded. Nothing here knows how
logits were computed or who samples; a vocabulary arrives as plain data, never as a pointer. This is the only
room that imports llguidance and jsonschema, and only when they are used.
"""

from moetool.constrain.closing import closing_bytes
from moetool.constrain.constraint import Constraint
from moetool.constrain.grammar import grammar_names, parse_choice, parse_grammar, parse_regex, split_choice
from moetool.constrain.judge import Judge
from moetool.constrain.matcher import Matcher, make_matcher
from moetool.constrain.refusal import Refusal
from moetool.constrain.schema import find_refusal, parse_schema, parse_schema_loosely
from moetool.constrain.tokens import Tokenizer, TokenTable, make_tokenizer

__all__ = [
    "Constraint",
    "Judge",
    "Matcher",
    "Refusal",
    "TokenTable",
    "Tokenizer",
    "closing_bytes",
    "find_refusal",
    "grammar_names",
    "make_matcher",
    "make_tokenizer",
    "parse_choice",
    "parse_grammar",
    "parse_regex",
    "parse_schema",
    "parse_schema_loosely",
    "split_choice",
]

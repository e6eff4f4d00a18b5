"""Grammars by name, file or text (GBNF and Lark), regular expressions, and choices."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from moetool.assets import grammar_dir
from moetool.constrain.constraint import Constraint, read_source, require_text, shown
from moetool.constrain.library import compile_error, first_line, llguidance, meaning, reason
from moetool.errors import ConstraintError, NotFound

_SHOWN_NAMES = 4
_GRAMMAR_HINT = "Simplify it; places such as 3(10) are those of its form in Lark."


def parse_grammar(name_path_or_text: str) -> Constraint:
    """A constraint from a shipped grammar's name, a path to a .gbnf or .lark file, or inline text.

    Text is taken as a grammar when it defines a rule (`name ::= …` in GBNF, `start: …` in Lark).
    """
    wanted = name_path_or_text
    require_text(wanted, "grammar")
    if not wanted.strip():
        raise ConstraintError("The grammar is empty.", _names_like(wanted))
    if _defines_rules(wanted):
        return _grammar(wanted, "inline grammar")
    for path in (*_shipped(wanted), Path(wanted)):
        # Not only plain files: a shell's <(…) is a pipe.
        if _exists(path):
            return _grammar(read_source(path), path.stem)
    raise _unknown_grammar(wanted)


def parse_regex(pattern: str) -> Constraint:
    """A constraint that the whole output matches `pattern` (Rust regex syntax; no look-around)."""
    require_text(pattern, "regular expression")
    grammar = llguidance().LLMatcher.grammar_from_regex(pattern)
    error = compile_error(grammar)
    if error:
        hint = "Look-around, back-references and \\b are not available; ^ and $ are implied."
        message = f"The regular expression {pattern!r} cannot be used: {reason(error)}."
        raise ConstraintError(message, "" if meaning(error) else hint)
    return Constraint("regex", pattern, grammar, "", "regular expression")


def split_choice(text: str) -> list[str]:
    """The options of a list with commas, by the rules of CSV: "a, b" with quotes around is one option."""
    try:
        rows = list(csv.reader(io.StringIO(text), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ConstraintError(f"The choice {text!r} cannot be read: {error}.", _CHOICE_HINT) from error
    return [option.strip() for row in rows for option in row]


def parse_choice(options: Sequence[str]) -> Constraint:
    """A constraint that the output is exactly one of `options`."""
    if not options or not all(options):
        raise ConstraintError("A choice needs at least one option, and none may be empty.", _CHOICE_HINT)
    options = list(dict.fromkeys(options))
    source = " | ".join(_lark_literal(option) for option in options)
    require_text(source, "choice")
    # One terminal: as rules, more than 2,000 options are too many for the parser.
    grammar = llguidance().LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {source}\n")
    _raise_on_grammar_error(grammar, "choice")
    return Constraint("choice", json.dumps(options, ensure_ascii=False), grammar, "", "choice")


_CHOICE_HINT = 'Write red,green; an option with a comma in it in quotes: "a, b",c.'


def grammar_names() -> list[str]:
    """Names of the grammars that ship with the package."""
    return sorted({p.stem for p in grammar_dir().iterdir() if p.suffix in {".gbnf", ".lark"}})


def _defines_rules(text: str) -> bool:
    return "::=" in text or re.search(r"(?m)^\s*(start\s*:|%llguidance)", text) is not None


def _grammar(text: str, title: str) -> Constraint:
    module = llguidance()
    lark = _as_lark(text, title)
    whole = module.LLMatcher.grammar_from_lark(_as_one_terminal(lark))
    if "::=" in text and not compile_error(whole):
        return Constraint("grammar", text, whole, "", title)
    grammar = module.LLMatcher.grammar_from_lark(lark)
    _raise_on_grammar_error(grammar, title)
    return Constraint("grammar", text, grammar, "", title)


def _as_one_terminal(lark: str) -> str:
    """The grammar as a single terminal, which compiles only where no rule is recursive.

    Terminals take the longest match and never give back, which GBNF does not do: of `[a-z]+ "z"` nothing
    would be accepted. Within one terminal the text is matched as GBNF means it.
    """
    return re.sub(r"(?m)^start:", "start: WHOLE__\n\nWHOLE__:", lark)


def _as_lark(text: str, title: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

    if "::=" not in text and is_lark_syntax(text):
        return text
    try:
        lark: str = gbnf_to_lark(_for_converter(text))
    # The converter raises bare Exception for a missing or doubled rule.
    except Exception as error:  # noqa: BLE001
        raise ConstraintError(
            f"The grammar {title!r} cannot be read: {first_line(str(error))}.",
            "GBNF needs a rule named root; every rule used must be defined once.",
        ) from error
    return lark


# A comment, a string, a class, any character, a repeat of what is repeated already.
_GBNF_PIECE = re.compile(
    r'#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\.|[?*+}](?=\s*\)[\s)]*[?*+{])', re.DOTALL
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)
_MEMBERS = re.compile(r"(\\x..|\\.|.)(?:-(\\x..|\\.|.))?", re.DOTALL)


def _for_converter(gbnf: str) -> str:
    """The same grammar in words that llguidance's converter takes as llama.cpp does (llama-grammar.cpp).

    It cuts zeros off escapes (of `\\u00e9abc` it makes U+E9AB and a c), lets Rust's set operators into
    classes (`[a&&b]`), drops brackets around what is repeated, and its any character is no line break.
    """
    return _GBNF_PIECE.sub(_piece_for_converter, gbnf)


def _piece_for_converter(found: re.Match[str]) -> str:
    piece = found[0]
    if piece == ".":
        return "[\\x00-\U0010ffff]"
    if piece[0] == '"':
        return _ESCAPE.sub(_plain_character, piece)
    if piece[0] == "[":
        negation = "^" if piece[1] == "^" else ""
        members = _ESCAPE.sub(_plain_character, piece[1 + len(negation) : -1])
        return f"[{negation}{_MEMBERS.sub(_plain_members, members)}]"
    return piece if piece[0] == "#" else f'{piece} ""'


def _plain_character(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if not digits:
        return r"\x2d" if found[0] == r"\-" else found[0]
    code = int(digits, 16)
    if code < 0x80:
        return f"\\x{code:02x}"
    # No character at all: left to be refused.
    return found[0] if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code)


def _plain_members(found: re.Match[str]) -> str:
    ends = (end for end in found.groups() if end)
    return "-".join(f"\\x{ord(end):02x}" if end in "&~-^[" else end for end in ends)


def _raise_on_grammar_error(grammar: str, title: str) -> None:
    error = compile_error(grammar)
    if error:
        raise ConstraintError(f"The grammar {title!r} cannot be compiled: {reason(error)}.", _GRAMMAR_HINT)


def _unknown_grammar(wanted: str) -> Exception:
    if "/" in wanted or wanted.endswith((".gbnf", ".lark")):
        return NotFound(f"There is no grammar file {shown(Path(wanted))}.", _names_like(Path(wanted).stem))
    return ConstraintError(f"There is no grammar {wanted!r}.", _names_like(wanted))


def _names_like(wanted: str) -> str:
    names = grammar_names()
    near = difflib.get_close_matches(wanted, names, n=_SHOWN_NAMES, cutoff=0.0)
    return f"Nearest of the {len(names)} by name: {', '.join(near)}."


def _exists(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def _shipped(name: str) -> list[Path]:
    if not re.fullmatch(r"[\w-]+", name):
        return []
    return [grammar_dir() / f"{name}{suffix}" for suffix in (".gbnf", ".lark")]


def _lark_literal(text: str) -> str:
    # JSON's escapes are Lark's, as long as other letters stay as they are.
    return json.dumps(text, ensure_ascii=False)

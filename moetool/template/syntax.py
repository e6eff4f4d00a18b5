"""Templates as syntax trees: the tags the Hub's libraries add, and the charges put in before compiling."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

# More than published templates need: what a hostile one could make of its constants stays small.
MAX_CONSTANT = 64
MAX_CONSTANTS = 1000
MAX_FORMATS = 50


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what training code learns from; here it is its body, out
    of which no variable is seen."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Charger(NodeTransformer):
    """Rewrites a parsed template so that what jinja2 does not let us intercept calls a hook."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        for name, value in node.iter_fields():
            # "elif_" holds branches, not a body.
            if (
                name != "elif_"
                and isinstance(value, list)
                and any(isinstance(item, nodes.Stmt) for item in value)
            ):
                setattr(node, name, [_tick_statement(value), *value])
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _hook("ticking", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _hook("spliced", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _taken_unless_constant(node.expr)
        for operand in node.ops:
            operand.expr = _taken_unless_constant(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _hook("kept", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in node.items)
        return node if constant else _hook("kept", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _hook("kept", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _hook("kept", node) if node.ctx == "load" else node


def _hook(name: str, *arguments: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _taken_unless_constant(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _hook("taken", node)


def _tick_statement(body: list[nodes.Node]) -> nodes.ExprStmt:
    """One charge at the head of a body, for its statements and for the fixed text it writes."""
    n_chars = sum(
        len(part.data)
        for statement in body
        if isinstance(statement, nodes.Output)
        for part in statement.nodes
        if isinstance(part, nodes.TemplateData)
    )
    return nodes.ExprStmt(_hook("tick", nodes.Const(len(body)), nodes.Const(n_chars)))


def literals_of(text: str) -> frozenset[str]:
    """String constants that a template compares with or passes to calls: what it looks for in messages."""
    tree = jinja2.Environment(extensions=[Generation, loopcontrols]).parse(text)
    places = [*tree.find_all(nodes.Compare), *tree.find_all(nodes.Call)]
    constants = (part for place in places for part in place.find_all(nodes.Const))
    return frozenset(part.value for part in constants if isinstance(part.value, str))


def formatted_constants(text: str) -> frozenset[str]:
    """What a template can put together of its own constants by a format: '<think{}>' and ':opensource'."""
    tree = jinja2.Environment(extensions=[Generation, loopcontrols]).parse(text)
    constants = {part.value for part in tree.find_all(nodes.Const) if isinstance(part.value, str)}
    short = sorted(constant for constant in constants if 0 < len(constant) <= MAX_CONSTANT)[:MAX_CONSTANTS]
    formats = [constant for constant in short if constant.count("{}") == 1][:MAX_FORMATS]
    return frozenset(part.replace("{}", filling) for part in formats for filling in short)

"""Templates rewritten so that every loop, comparison and value they make is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from llmx_templates.sandbox import BoundedEnvironment

Literal = TypeVar("Literal", nodes.List, nodes.Tuple, nodes.Dict)


def account(tree: nodes.Template, environment: BoundedEnvironment) -> nodes.Template:
    """Return the tree with calls of the environment's `tick`, `checked`, `built` and `joined` in it.

    They are named by nodes that no source can spell, so that a template can neither call nor replace them.
    """
    found: nodes.Template = Accounting().visit(tree)
    found.set_environment(environment)
    return found


class Accounting(NodeTransformer):
    """Puts a call around, or at the beginning of, whatever may take long or be large."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Count turns, also those that a condition leaves out."""
        self.generic_visit(node)
        node.body.insert(0, _tick(node))
        if node.test is not None:
            node.test = nodes.And(_call("tick", [nodes.Const(1)], node.test), node.test).set_lineno(node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        """Count calls."""
        self.generic_visit(node)
        node.body.insert(0, _tick(node))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        """Count calls."""
        self.generic_visit(node)
        node.body.insert(0, _tick(node))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Bound what `~` makes."""
        self.generic_visit(node)
        return _call("joined", node.nodes, node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Look at the clock."""
        self.generic_visit(node)
        return _call("checked", [node], node)

    visit_Test = visit_Compare

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Account for a part that is cut out."""
        self.generic_visit(node)
        return _call("checked", [node], node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: Literal) -> nodes.Node:
        """Account for a value that is written out, unless it stands in the source as it is."""
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load" or all(isinstance(each, nodes.Const) for each in node.items):
            return node
        return _call("built", [node], node)

    visit_Tuple = visit_List
    visit_Dict = visit_List


def _call(name: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None).set_lineno(at.lineno)


def _tick(node: nodes.Node) -> nodes.Stmt:
    """Return a statement that accounts for the text that stands in the body of a node."""
    data = sum(len(each.data) for each in node.find_all(nodes.TemplateData))
    constants = sum(len(str(each.value)) for each in node.find_all(nodes.Const))
    return nodes.ExprStmt(_call("tick", [nodes.Const(data + constants)], node)).set_lineno(node.lineno)

"""The shape of a program: equal for programs whose difference cannot matter.

Comments, layout and docstrings do not count. Two programs that differ in a fixed seed alone have one shape:
another seed is a replica, which the controller makes without a model.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize

_SEED_NAME = re.compile(r"(^|_)(seed|random_state|rng_seed)(_|$|\d)", re.IGNORECASE)
_SEED_CALLS = {
    "seed", "manual_seed", "manual_seed_all", "seed_everything", "set_seed", "default_rng", "RandomState",
    "PRNGKey", "Random", "SeedSequence",
}  # fmt: skip


def shape(code: str) -> str:
    """A hash of the normalised program."""
    return hashlib.sha256(_normalised(code).encode()).hexdigest()[:32]


def _normalised(code: str) -> str:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _tokens(code)
    try:
        return ast.dump(_Normaliser().visit(tree))
    except RecursionError:
        return _tokens(code)


def _tokens(code: str) -> str:
    """A program that does not parse, without comments and blank space."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    try:
        found = [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(code).readline)
            if token.type not in skipped
        ]
    except (tokenize.TokenError, SyntaxError, IndentationError):
        found = code.split()
    return "\0".join(found)


class _Normaliser(ast.NodeTransformer):
    """Removes docstrings and sets every fixed seed to zero."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _SEED_CALLS:
            node.args = [_zeroed(argument) for argument in node.args]
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg and _SEED_NAME.search(node.arg):
            node.value = _zeroed(node.value)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if any(isinstance(target, ast.Name) and _SEED_NAME.search(target.id) for target in node.targets):
            node.value = _zeroed(node.value)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value and isinstance(node.target, ast.Name) and _SEED_NAME.search(node.target.id):
            node.value = _zeroed(node.value)
        return self.generic_visit(node)

    def _without_docstring(self, node: ast.Module | ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)


def _zeroed(value: ast.expr) -> ast.expr:
    number = value.operand if isinstance(value, ast.UnaryOp) else value
    is_number = isinstance(number, ast.Constant) and isinstance(number.value, int)
    return ast.Constant(0) if is_number else value

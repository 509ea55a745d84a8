"""Small changes of a file's code, such as a hand makes by mistake: a comparison turned round, a statement left out."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
}
_TELEMETRY = ("_LOG.", "self.progress.")
"""What begins so tells of the run and has no part in it."""
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "add": "discard", "discard": "add"}


@dataclass(frozen=True)
class Mutant:
    """A change in `file`, in the function `where`: `before` became `after`, the `number`-th such change there."""

    file: str
    where: str
    before: str
    after: str
    number: int
    line: int
    source: str

    @property
    def name(self) -> str:
        """Name it by what it changes, not by its line: code above it may move."""
        number = f" ({self.number + 1})" if self.number else ""
        return f"{self.file} {self.where}: {self.before} -> {self.after}{number}"

    @property
    def rank(self) -> str:
        """Give its place in a shuffled order that is the same while the changed code stays the same."""
        return hashlib.sha256(f"1 {self.name}".encode()).hexdigest()


def find_mutants(tree: Path, file: str) -> Iterator[Mutant]:
    """Give the mutants of a file below `tree`: of its constants and functions, not of defaults that every run sets.

    A statement that `__init__` lacks is no mutant: the first call would fail.
    """
    source = (tree / file).read_text()
    module = ast.parse(source)
    classes = {node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)}
    seen: dict[tuple[str, str, str], int] = {}
    for where, node in _walk(module, ""):
        for before, after, line in _change(node):
            if where in classes or (after == "nothing" and where.endswith("__init__")):
                continue
            key = (where, before, after)
            seen[key] = seen.get(key, -1) + 1
            yield Mutant(file, where, before, after, seen[key], line, ast.unparse(ast.fix_missing_locations(module)))


def _walk(node: ast.AST, where: str) -> Iterator[tuple[str, ast.AST]]:
    """Give the nodes of the code that runs, each with the name of its function; no annotations, no decorators."""
    if _is_telemetry(node):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inside = where
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = f"{where}.{child.name}".lstrip(".")
            if not _is_telemetry(child):
                yield inside or "module", child
            yield from _walk(child, inside)


def _is_telemetry(node: ast.AST) -> bool:
    """Tell whether a statement, or each of those that a condition leads to, does no more than tell of the run."""
    if isinstance(node, ast.If):
        return all(map(_is_telemetry, [*node.body, *node.orelse]))
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(_TELEMETRY)


def _change(node: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Change a node, give what was and what became of it, and its line, and change it back after each."""
    for attribute, new in _replacements(node):
        owner, name = attribute
        old, before = getattr(owner, name), _show(node)
        setattr(owner, name, new)
        after = _show(node)
        yield before, after, node.iter.lineno if isinstance(node, ast.comprehension) else getattr(node, "lineno", 0)
        setattr(owner, name, old)
    for block in ("body", "orelse"):
        statements = getattr(node, block, None)
        if not isinstance(statements, list):
            continue
        for number, statement in enumerate(statements):
            if _can_be_dropped(statement):
                statements[number] = ast.copy_location(ast.Pass(), statement)
                yield _show(statement), "nothing", statement.lineno
                statements[number] = statement


def _replacements(node: ast.AST) -> Iterator[tuple[tuple[ast.AST, str], object]]:
    """Give what may be put in the place of an attribute of a node, or of one of its parts."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
            yield (node, "ops"), [_COMPARISONS[type(operator)]()]
        case ast.BoolOp(op=operator):
            yield (node, "op"), ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            yield (node, "op"), _OPERATORS[type(operator)]()
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield (node, "test"), ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=[test]):
            yield (node, "ifs"), [ast.UnaryOp(ast.Not(), test)]
        case ast.Call(func=ast.Name(id=name) as function) if name in _NAMES:
            yield (function, "id"), _NAMES[name]
        case ast.Call(func=ast.Attribute(attr=name) as function) if name in _NAMES:
            yield (function, "attr"), _NAMES[name]
        case ast.Constant(value=bool() as value):
            yield (node, "value"), not value
        case ast.Constant(value=int() | float() as value):
            yield (node, "value"), value + 1


def _can_be_dropped(statement: ast.stmt) -> bool:
    if _is_telemetry(statement):
        return False
    match statement:
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def _show(node: ast.AST) -> str:
    """Show a node in one line; of a statement with a body its head."""
    if isinstance(node, ast.comprehension):
        return "if " + ast.unparse(node.ifs[0])
    if isinstance(node, ast.If | ast.While):
        return "if " + ast.unparse(node.test)
    return ast.unparse(node)

"""Small errors that a mutation run puts into a source file, one at a time.

Left out is what no test should hold: annotations, docstrings, messages, names of nodes and values,
assertions, `strict=` of zip, and comparisons with None that only the type checker needs.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
BUILTINS = {"any": "all", "all": "any", "min": "max", "max": "min"}
# Calls whose arguments are messages, and arguments that are names or checks of Python's.
MESSAGES = frozenset({"leave", "_leave_calls"})
NAMING = {"add_constant": 2}  # the place of the argument that is a name
UNTESTED_KEYWORDS = frozenset({"name", "strict"})
UNTESTED = (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.JoinedStr, ast.Pass)


@dataclass(frozen=True)
class Mutant:
    """One error: what stands there, what is put in its place, and the line that holds it."""

    line: int
    text: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"`{self.before}` -> `{self.after}` in `{self.text}`"


@dataclass(frozen=True)
class _Site:
    parent: ast.AST
    field: str
    place: int | None
    node: ast.AST
    new: ast.AST

    def apply(self) -> None:
        if self.place is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.place] = self.new


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a source text, in a fixed order."""
    lines = source.splitlines()
    found = []
    for site in _sites(ast.parse(source)):
        line: int = site.node.lineno  # type: ignore[attr-defined]
        found.append(Mutant(line, lines[line - 1].strip(), _text(site.node), _text(site.new)))
    return found


def mutate(source: str, number: int) -> ast.Module:
    """Return the tree of a source text with mutant `number` in it."""
    tree = ast.parse(source)
    for index, site in enumerate(_sites(tree)):
        if index == number:
            site.apply()
            return ast.fix_missing_locations(tree)
    raise IndexError(number)


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _sites(node: ast.AST) -> Iterator[_Site]:
    for field, place, child in _children(node):
        for new in _replacements(child, node, field):
            yield _Site(node, field, place, child, ast.copy_location(new, child))
        yield from _sites(child)


# ---------------------------------------------------------------- where
def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """Yield the parts of a node that tests should hold: field, place in it if a list, part."""
    for field, value in ast.iter_fields(node):
        if _is_negative(node):
            return
        if field in ("annotation", "returns", "type_params", "ctx", "op", "ops"):
            continue
        if isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, ast.AST) and _is_tested(item, node, field, place):
                    yield field, place, item
        elif isinstance(value, ast.AST) and _is_tested(value, node, field, None):
            yield field, None, value


def _is_tested(item: ast.AST, parent: ast.AST, field: str, place: int | None) -> bool:
    if isinstance(item, UNTESTED) or _is_type(item):
        return False
    if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant):
        return False  # a docstring
    if field == "decorator_list":
        return isinstance(item, ast.Call) and _name(item) == "register"
    if isinstance(item, ast.keyword):
        return item.arg not in UNTESTED_KEYWORDS
    if isinstance(item, ast.If) and isinstance(item.test, ast.Name):
        return item.test.id != "TYPE_CHECKING"
    if isinstance(item, ast.Expr) and isinstance(item.value, ast.Call):
        return _name(item.value) not in MESSAGES
    if isinstance(parent, ast.Call) and field == "args":
        return NAMING.get(_name(parent)) != place
    return True


def _is_type(item: ast.AST) -> bool:
    """Say whether an expression is a union of types (`int | None`)."""
    if not isinstance(item, ast.BinOp) or not isinstance(item.op, ast.BitOr):
        return False
    parts = (item.left, item.right)
    types = ("int", "str", "float", "bool")
    return any(
        (isinstance(part, ast.Constant) and part.value is None)
        or (isinstance(part, ast.Name) and part.id in types)
        or _is_type(part)
        for part in parts
    )


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


# ---------------------------------------------------------------- what
def _replacements(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a node."""
    match node:
        case ast.Compare():
            yield from _comparisons(node)
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield ast.BoolOp(other, node.values)
            for value in node.values:
                if _narrows(value, node):
                    continue
                rest = [item for item in node.values if item is not value]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            yield ast.Constant(number)
            yield ast.Constant(1 - number)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield ast.BinOp(node.left, ARITHMETIC[type(op)](), node.right)
        case ast.AugAssign(op=op):
            yield ast.Pass()
            if type(op) in ARITHMETIC:
                yield ast.AugAssign(node.target, ARITHMETIC[type(op)](), node.value)
        case ast.Constant():
            yield from _constants(node)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Name(id=name) if name in BUILTINS and field == "func":
            yield ast.Name(BUILTINS[name], ast.Load())
        case ast.stmt():
            yield from _statements(node)
    if field in ("test", "ifs") and isinstance(node, ast.Call | ast.Name | ast.Attribute):
        yield ast.UnaryOp(ast.Not(), node)


def _narrows(value: ast.expr, among: ast.BoolOp) -> bool:
    """Say whether `value` is `x is None` of what `is_op` answers too, or of a required input."""
    match value:
        case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant()]):
            text = ast.unparse(left)
        case _:
            return False
    if text.endswith(".inputs[0]"):
        return True
    calls = [node for node in ast.walk(among) if isinstance(node, ast.Call) and node.args]
    return any(_name(call) == "is_op" and ast.unparse(call.args[0]) == text for call in calls)


def _is_negative(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for place, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and " " not in value:  # others are messages
        yield ast.Constant("XX")


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Continue():
            yield ast.Pass()
            yield ast.Break()
        case ast.Break() | ast.Expr():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Return(value=value) if value is not None:
            yield from _returns(value)
        case ast.If() if isinstance(node.body[-1], ast.Return) and not node.orelse:
            yield ast.Pass()  # a guard that returns


def _returns(value: ast.expr) -> Iterator[ast.AST]:
    if isinstance(value, ast.Constant) and (value.value is None or value.value in (True, False)):
        return
    if isinstance(value, ast.Compare | ast.BoolOp) or (
        isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    ):
        yield ast.Return(ast.UnaryOp(ast.Not(), copy.deepcopy(value)))
    else:
        yield ast.Return(ast.Constant(None))

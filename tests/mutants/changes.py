"""Which changes of one token or one statement a source allows: what the sample of mutants is drawn from.

A change is a span of bytes and what stands there instead, found by `ast`; the rest of the file stays as it is. What
differs at one place (`<` to `<=` or to `>=`) is one site with several variants, so that no place is drawn more often
for having more of them.

Not changed, because no test could tell or because Python itself would: annotations, docstrings, log lines, what an
exception is built from, assertions (checks on ourselves), decorators, bodies of protocols, `__repr__`, `__slots__`,
`TYPE_CHECKING`, plain assignments in `__init__` and of local names (dropped, they end in a NameError), and settings:
module-level constants, each a number with its reason beside it, that a test could only repeat. Those of app/wire
are not settings but the protocol's numbers.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class Change(NamedTuple):
    """One variant: bytes start..end of the source become `text`."""

    kind: str
    start: int
    end: int
    text: str


Site = tuple[Change, ...]  # the variants of one kind at one place
_Function = ast.FunctionDef | ast.AsyncFunctionDef

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
}
_CALLED_THE_OTHER_WAY: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_ORDER_IS_NOTHING: Final = ("min", "max", "isinstance", "issubclass", "cast", "TypeVar")
_EMPTY: Final = {"str": '""', "bytes": 'b""', "list": "[]", "dict": "{}", "set": "set()", "tuple": "()"}
_NO_TARGETS: Final = (ast.Assert, ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)
_LOG_LINE: Final = re.compile(r"\(*_(log|faults)\b")


def sites(source: str, *, settings_too: bool = False) -> list[Site]:
    """Every place that may be changed, in the file's order; `settings_too`: module-level constants as well."""
    return sorted(_Finder(source, settings_too).module(), key=lambda site: (site[0].start, site[0].end, site[0].kind))


def applied(source: str, change: Change) -> str:
    """The source with the change made."""
    data = source.encode()
    return (data[: change.start] + change.text.encode() + data[change.end :]).decode()


class _Finder:
    def __init__(self, source: str, settings_too: bool) -> None:
        self._source = source.encode()
        self._settings_too = settings_too
        self._line_starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    def module(self) -> Iterator[Site]:
        for node in ast.parse(self._source).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and not self._settings_too:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and re.match("_?[A-Z]", target.id):
                    continue
            yield from self._visit(node, None)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _between(self, kind: str, left: ast.expr, right: ast.expr, pattern: str, instead: tuple[str, ...]) -> Site:
        """The operator that stands between two expressions, with their brackets and comments."""
        first, last = self._span(left)[1], self._span(right)[0]
        gap = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0].encode()), self._source[first:last].decode())
        operator = re.search(pattern, gap)
        assert operator is not None, (pattern, gap)
        return tuple(Change(kind, first + operator.start(), first + operator.end(), text) for text in instead)

    def _whole(self, kind: str, node: ast.expr | ast.stmt, *instead: str) -> Site:
        return tuple(Change(kind, *self._span(node), text) for text in instead)

    def _visit(self, node: ast.AST, function: _Function | None) -> Iterator[Site]:
        if isinstance(node, _NO_TARGETS):
            if isinstance(node, ast.Raise):
                yield self._whole("raise dropped", node, "pass")
            return
        if isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Constant) or _LOG_LINE.match(self._text(node)):
                return
            yield self._whole("statement dropped", node, "pass")
        elif isinstance(node, ast.stmt):
            yield from self._statement(node, function)
        elif isinstance(node, ast.expr):
            yield from self._operator(node)
            yield from self._operand(node)
        for child in _children(node):
            yield from self._visit(child, node if isinstance(node, _Function) else function)

    def _statement(self, node: ast.stmt, function: _Function | None) -> Iterator[Site]:
        match node:
            case ast.AugAssign():
                before, after = _ARITHMETIC.get(type(node.op), ("", ""))
                if before:
                    yield self._between(
                        "arithmetic", node.target, node.value, re.escape(before) + "=", (after + "=", "=")
                    )
                yield self._whole("statement dropped", node, "pass")
            case ast.Assign():
                if _matters_when_dropped(node, function):
                    yield self._whole("statement dropped", node, "pass")
            case ast.Delete():
                yield self._whole("statement dropped", node, "pass")
            case ast.Break():
                yield self._whole("loop", node, "continue", "pass")
            case ast.Continue():
                yield self._whole("loop", node, "break", "pass")
            case ast.If() if _is_condition(node.test) and not _is_set_apart(node):
                yield self._whole("condition", node.test, "True", "False")
            case ast.While() if _is_condition(node.test):
                yield self._whole("condition", node.test, "False")
            case ast.Return():
                yield from self._returned(node, function)

    def _returned(self, node: ast.Return, function: _Function | None) -> Iterator[Site]:
        assert function is not None
        if function.body[-1] is not node:
            yield self._whole("return dropped", node, "pass")
        if node.value is None or isinstance(node.value, ast.Constant):
            return  # a constant is a site of its own
        value = self._text(node.value)
        kind = ast.unparse(function.returns) if function.returns is not None else ""
        instead = "None"
        if kind == "bool":
            instead = f"not ({value})"
        elif kind in ("int", "float"):
            instead = f"({value}) + 1"
        elif kind.split("[")[0] in _EMPTY:
            instead = _EMPTY[kind.split("[")[0]]
        if instead != value:
            yield self._whole("returned value", node.value, instead)

    def _operator(self, node: ast.expr) -> Iterator[Site]:
        match node:
            case ast.Compare():
                operands = [node.left, *node.comparators]
                for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
                    yield self._between("comparison", left, right, *_COMPARISONS[type(operator)])
            case ast.BoolOp():
                before, after = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield self._between("and/or", left, right, before, (after,))
            case ast.BinOp():
                before, after = _ARITHMETIC.get(type(node.op), ("", ""))
                if before:
                    yield self._between("arithmetic", node.left, node.right, re.escape(before), (after,))
            case ast.UnaryOp():
                yield self._whole("not dropped", node, f"({self._text(node.operand)})")

    def _operand(self, node: ast.expr) -> Iterator[Site]:
        match node:
            case ast.IfExp() if _is_condition(node.test):
                yield self._whole("condition", node.test, "True", "False")
            case ast.Constant(value=bool() as value):
                yield self._whole("constant", node, str(not value))
            case ast.Constant(value=int() as value):
                yield self._whole("constant", node, str(value + 1), str(value - 1) if value else "-1")
            case ast.Constant(value=float() as value):
                yield self._whole("constant", node, str(value * 2 or 1.0), str(value / 2 or 1.0))
            case ast.Name(id=name) if name in _CALLED_THE_OTHER_WAY:
                yield self._whole("min/max", node, _CALLED_THE_OTHER_WAY[name])
            case ast.Call() if ast.unparse(node.func).split("[")[0] not in _ORDER_IS_NOTHING:
                for left, right in zip(node.args, node.args[1:], strict=False):
                    yield from self._swapped(left, right)

    def _swapped(self, left: ast.expr, right: ast.expr) -> Iterator[Site]:
        """Two arguments next to each other, exchanged."""
        if isinstance(left, ast.Starred) or isinstance(right, ast.Starred) or self._text(left) == self._text(right):
            return
        (start, middle), (resumed, end) = self._span(left), self._span(right)
        between = self._source[middle:resumed].decode()
        yield (Change("arguments", start, end, self._text(right) + between + self._text(left)),)


def _is_condition(test: ast.expr) -> bool:
    """Neither a constant nor one that gives a name that the branch needs."""
    return not isinstance(test, ast.Constant) and not any(isinstance(part, ast.NamedExpr) for part in ast.walk(test))


def _matters_when_dropped(node: ast.Assign, function: _Function | None) -> bool:
    """Whether dropping it leaves a program that runs on: a name or an attribute keeps what it had before."""
    if function is None:
        return False
    used = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    for target in node.targets:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(part, ast.Name) and part.id not in used:
                return False
            if isinstance(part, ast.Attribute) and function.name == "__init__":
                return False
    return True


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What of a node is looked at: no annotations, decorators, bases or classes that are named instead of run."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if node.name not in ("__repr__", "__str__"):
                yield from node.args.defaults
                yield from (default for default in node.args.kw_defaults if default is not None)
                yield from node.body
        case ast.ClassDef():
            if not any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases):
                yield from (child for child in node.body if not _is_slots(child))
        case ast.AnnAssign():
            if node.value is not None:
                yield node.value
        case ast.If():
            if not _is_set_apart(node):
                yield from ast.iter_child_nodes(node)
        case ast.Call():
            called = ast.unparse(node.func).split("[")[0]
            yield node.func
            if called in ("isinstance", "issubclass"):
                yield node.args[0]
            elif called == "cast":
                yield node.args[1]
            elif called != "TypeVar":
                yield from node.args
                yield from (keyword.value for keyword in node.keywords)
        case ast.ExceptHandler():
            yield from node.body
        case _:
            yield from ast.iter_child_nodes(node)


def _is_set_apart(node: ast.If) -> bool:
    """Whether it is there for the type checker, or for a module that is run by its name."""
    return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")


def _is_slots(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__slots__", "__all__", "_fields_")

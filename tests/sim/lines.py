"""Which lines of the node's shell and core the drawn seeds run; not_run.py lists the others."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Final

import coverage

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("app/requests", "app/peers", "app/cluster")
# Modules that only tell people what is so, and steer nothing: their unit tests and test_readiness.py run them.
TELLING: Final = ("app/cluster/readiness.py", "app/peers/lease_watch.py", "app/peers/link_watch.py")
# What is there with a register outside only has seeds of its own (test_register.py), and a real etcd (test_etcd.py).
REGISTERS: Final = (
    "app/cluster/membership/seat.py",
    "app/cluster/membership/shared_register.py",
    "app/peers/etcd.py",
    "app/peers/etcd_access.py",
    "app/peers/etcd_faults.py",
    "app/peers/etcd_names.py",
)

Lines = dict[str, set[int]]  # by file, from the root


@contextmanager
def measured() -> Iterator[Lines]:
    """What is run meanwhile; the lines are there when it ends."""
    found: Lines = {}
    include = [str(ROOT / package / "*") for package in PACKAGES]
    meter = coverage.Coverage(data_file=None, include=include, concurrency="greenlet", config_file=False)
    meter.start()
    try:
        yield found
    finally:
        meter.stop()
        data = meter.get_data()
        for name in data.measured_files():
            found[str(Path(name).relative_to(ROOT))] = set(data.lines(name) or ())


def runnable() -> Lines:
    """The lines inside functions: what is run when a module is imported is not of interest."""
    paths = {
        str(path.relative_to(ROOT)): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    }
    left_out = {*TELLING, *REGISTERS}
    assert paths.keys() >= left_out
    return {name: _inside_functions(path) for name, path in paths.items() if name not in left_out}


def _inside_functions(path: Path) -> set[int]:
    source = path.read_text()
    lines: set[int] = set()
    stubs = {node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and _is_stub(node)}

    def walk(code: CodeType) -> None:
        if code.co_flags & 0x2:  # CO_NEWLOCALS: a function, neither a module nor a class's body
            lines.update(line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                walk(constant)

    walk(compile(source, str(path), "exec"))
    return lines & _statements(source) - stubs


def _statements(source: str) -> set[int]:
    """Where statements begin: the other lines of one that takes several are run with its first, or are not told."""
    return {node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and not _is_stub(node)}


def _is_stub(node: ast.stmt) -> bool:
    """Whether it is the body, or the whole on one line, of a protocol's method."""
    if isinstance(node, ast.FunctionDef):
        node = node.body[0]
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def not_run(run: Lines) -> dict[str, list[str]]:
    """The statements that were not run, by file, as the source has them."""
    missing: dict[str, list[str]] = {}
    for name, lines in runnable().items():
        left = sorted(lines - run.get(name, set()))
        if left:
            source = (ROOT / name).read_text().splitlines()
            missing[name] = [source[line - 1].strip() for line in left]
    return missing

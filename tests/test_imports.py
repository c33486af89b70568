"""The architecture, as its imports tell it: nothing low knows anything high.

Every module of app/ must be in the table, so that a new package states its place here first.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parent.parent

# What the modules under a name may import of app and proto_gen besides their own package, a line each, from the bottom
# to the top; the longest name that fits counts.
ALLOWED = {
    "app.wire.protocol": (),
    "app.fast": (),
    "app.version": (),
    "app.wire": ("app.fast", "proto_gen"),
    "app.observe": ("app.wire",),
    "app.loop": ("app.observe.logs",),
    "app.config": ("app.observe.logs", "app.version", "app.wire.protocol"),
    "app.fragments": (),
    "app.printable": (),
    "app.client": ("app.fragments", "app.wire.protocol"),
    "app.storage": ("app.fast", "app.wire.protocol"),
    "app.cluster": ("app.fast", "app.storage.mutate", "app.version", "app.wire.protocol", "proto_gen"),
    "app.peers": (
        *("app.cluster", "app.config.coordination", "app.config.servers", "app.fast", "app.loop", "app.observe"),
        *("app.printable", "app.version", "app.wire", "proto_gen"),
    ),
    "app.requests": (
        *("app.cluster", "app.config", "app.fast", "app.loop", "app.observe", "app.peers", "app.storage"),
        *("app.version", "app.wire"),
    ),
    "app.front": ("app.config", "app.fast", "app.loop", "app.observe", "app.requests", "app.wire"),
    "app.sockets": ("app.config", "app.fast", "app.fragments", "app.front.batch"),
    "app.reload": ("app.config", "app.loop", "app.observe", "app.peers"),
    "app.node": ("app",),
    "app.process": ("app",),
    "app.http": (
        *("app.cluster", "app.config.servers", "app.fast", "app.fragments", "app.loop", "app.observe"),
        *("app.peers", "app.sockets", "app.version", "app.wire"),
    ),
    "app.main": ("app.config", "app.fast", "app.http", "app.observe", "app.printable", "app.process"),
}

# Modules that import nothing of their own package either.
LEAVES = ("app.wire.protocol",)

# What may wait, switch greenlets, know the time or be different each time.
IMPURE = ("gevent", "greenlet", "socket", "select", "selectors", "threading", "asyncio", "time", "datetime", "random")


class Import(NamedTuple):
    target: str
    line: int
    lazy: bool  # inside a function


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((REPOSITORY / "app").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, module: str) -> Iterator[Import]:
    """Every module that some source imports; a name imported from a package counts if it is a module."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(whole if whole in MODULES else str(node.module), node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(ast.parse(source), False)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def place(module: str) -> str:
    """The row of the table that a module falls under."""
    rows = [row for row in ALLOWED if within(module, (row,))]
    assert rows, f"{module} has no place in the table: say here what it may import"
    return max(rows, key=len)


def wrong_arrows(module: str, source: str) -> list[str]:
    row = place(module)
    own = () if row in LEAVES else (".".join(module.split(".")[:2]),)
    allowed = (*own, *ALLOWED[row])
    return [
        f"{module}:{line} imports {target}"
        for target, line, _ in imports(source, module)
        if within(target, ("app", "proto_gen", "tests", "tools")) and not within(target, allowed)
    ]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "app"])
def test_imports_point_one_way(module: str) -> None:
    assert wrong_arrows(module, MODULES[module].read_text()) == []


def test_the_table_names_what_is_there() -> None:
    assert all(row in MODULES for row in ALLOWED)


def test_only_main_reaches_for_the_node_and_only_when_it_runs() -> None:
    for module, path in MODULES.items():
        if within(module, ("app.node", "app.process", "app.http")):
            continue
        for target, line, lazy in imports(path.read_text(), module):
            if within(target, ("app.node", "app.process")):
                assert (module, lazy) == ("app.main", True), f"{module}:{line} imports {target}"


def test_the_http_server_is_imported_only_when_it_is_wanted() -> None:
    """It takes 9 MiB; naming its types where only a type checker looks costs nothing."""
    for module, path in MODULES.items():
        if within(module, ("app.http",)):
            continue
        source = path.read_text()
        guarded = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
        for target, line, lazy in imports(source, module):
            if within(target, ("app.http",)):
                assert lazy or source.splitlines()[line - 1] in guarded, f"{module}:{line} imports {target}"


def impurities(source: str, module: str) -> list[str]:
    """What impure things a module imports. `random` may be there to name the type random.Random, nothing else."""
    found = [
        f"{module}:{line} imports {target}"
        for target, line, _ in imports(source, module)
        if within(target, IMPURE) and target != "random"
    ]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            found.append(f"{module}:{node.lineno} imports from random")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and node.attr != "Random":
            found.append(f"{module}:{node.lineno} uses random.{node.attr}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "random.Random":
            found.append(f"{module}:{node.lineno} makes its own generator")
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, ("app.cluster", "app.wire"))])
def test_protocol_logic_has_no_sockets_no_clock_and_no_chance_of_its_own(module: str) -> None:
    assert impurities(MODULES[module].read_text(), module) == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if within(name, ("app.client", "app.config", "app.observe.logs"))]
)
def test_what_runs_without_a_node_needs_no_gevent(module: str) -> None:
    targets = [target for target, _, _ in imports(MODULES[module].read_text(), module)]
    assert not [target for target in targets if within(target, ("gevent", "greenlet"))]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app.wire.codec", "from app.requests import commands"),
        ("app.wire.codec", "def f():\n    import app.storage.store"),
        ("app.wire.protocol", "from app.wire.codec import parse_msg"),
        ("app.storage.store", "from app.wire.codec import parse_msg"),
        ("app.storage.store", "from app.wire import codec"),
        ("app.storage.store", "import app.requests.commands as c"),
        ("app.cluster.membership.core", "from app.node import Node"),
        ("app.client.client", "from app.storage.store import Store"),
        ("app.requests.commands", "from app.front import front"),
        ("app.observe.counters", "import tests.support.parts"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    assert len(wrong_arrows(module, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import gevent",
        "from gevent.event import Event",
        "def f():\n    import socket",
        "from time import monotonic",
        "from random import random",
        "import random\nx = random.random()",
        "import random\nx = random.Random(1)",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert len(impurities(source, "app.cluster.membership.core")) == 1


def test_naming_the_type_of_a_generator_is_none() -> None:
    assert impurities("import random\ndef f(rng: random.Random) -> None: ...", "app.cluster.membership.core") == []

"""The Python programs in examples/: each compiles, and where its library is installed it is typed strictly."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import client
from tests.support.nodes import REPOSITORY

PROGRAMS = sorted((REPOSITORY / "examples" / "python").glob("*.py"))
TYPES_S = 120.0


def imports(path: Path) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_it_compiles_and_what_it_imports_of_ours_is_there(path: Path) -> None:
    compile(path.read_text(), path, "exec")
    (ours,) = [node for node in imports(path) if node.module == "kvcluster"]
    assert {alias.name for alias in ours.names} <= set(client.__all__)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_its_types_are_right(path: Path) -> None:
    for node in imports(path):
        package = str(node.module).partition(".")[0]
        if package != "kvcluster" and importlib.util.find_spec(package) is None:
            pytest.skip(f"{path.name} needs {package}, which is not installed here")
    # Celery has no types, its decorators neither.
    options = ("--strict", "--ignore-missing-imports", "--allow-untyped-decorators")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)],
        cwd=REPOSITORY,
        env=os.environ | {"MYPYPATH": str(REPOSITORY / "deploy")},
        capture_output=True,
        text=True,
        timeout=TYPES_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""`make` with a Python that won't do, and with an environment of another one: by stand-ins for Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY, environment
from tests.support.polling import DEADLINE_S


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout, as far as setting up goes."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for path in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(path, tmp_path)
    return tmp_path


def a_python(path: Path, minor: int) -> Path:
    """Answers as Python 3.`minor` does to what the Makefile asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "yes" if minor >= 11 else "no"
    path.write_text(f'#!/bin/sh\ncase "$2" in *yes*) echo {said};; *) echo python3.{minor};; esac\n')
    path.chmod(0o755)
    return path


def an_environment(tree: Path, minor: int) -> None:
    a_python(tree / ".venv" / "bin" / "python", minor)
    (tree / ".venv" / "lib" / f"python3.{minor}" / "site-packages").mkdir(parents=True)
    (tree / ".venv" / "pyvenv.cfg").touch()


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=tree,
        env={name: value for name, value in environment().items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("has_environment", [False, True])
@pytest.mark.parametrize("python", ["old", "none"])
def test_one_line_for_a_python_that_is_too_old_or_is_not_there(tree: Path, python: str, has_environment: bool) -> None:
    a_python(tree / "old", 10)
    if has_environment:
        an_environment(tree, 11)
    done = make(tree, "run", f"PYTHON=./{python}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert f"./{python} is not to be had, or too old: Python 3.11 or newer is needed" in done.stderr
    assert (tree / ".venv").exists() == has_environment


@pytest.mark.parametrize(
    ("there", "asked", "is_made_anew"), [(12, None, False), (12, 12, False), (12, 13, True), (10, None, True)]
)
def test_an_environment_of_another_python_is_made_anew(
    tree: Path, there: int, asked: int | None, is_made_anew: bool
) -> None:
    an_environment(tree, there)
    a_python(tree / "asked", asked or 12)
    path = environment()["PATH"]
    a_python(tree / "bin" / "python3", 12)
    words = [f"PYTHON={tree / 'asked'}"] if asked else [f"PATH={tree / 'bin'}:{path}"]
    done = make(tree, "-n", "setup", *words)
    assert done.returncode == 0, done.stderr
    assert ("-m venv --clear .venv" in done.stdout) == is_made_anew

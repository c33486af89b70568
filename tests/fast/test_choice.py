"""Which of the two is used: by KV_FAST, by what was built, and of what."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import fast
from tests.support.nodes import REPOSITORY
from tools.build_fast import lacking

ASK = """
from app import fast
from app.wire import codec
print(fast.CORE, *{pure is chosen for pure, chosen in fast.PIECES.values()})
"""
is_built = fast.RECORD.exists() and fast.RECORD.read_text().strip() == fast.fingerprint()
needs_build = pytest.mark.skipif(not is_built, reason="app/fast is not compiled")
needs_compiler = pytest.mark.skipif(lacking() is not None, reason=f"nothing can be compiled here: {lacking()}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a node is made of, with whatever was built."""
    for name in ("app", "proto_gen", "tools"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "servers.txt", tmp_path)
    return tmp_path


def run(tree: Path, *arguments: str, fast: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, *arguments),
        cwd=tree,
        env=os.environ | {"KV_FAST": fast, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def asked(tree: Path, fast: str = "") -> str:
    done = run(tree, "-c", ASK, fast=fast)
    assert done.stderr == ""
    return done.stdout.strip()


def unbuild(tree: Path) -> None:
    for path in (tree / "app" / "fast").iterdir():
        if path.suffix in (".so", ".txt"):
            path.unlink()


def refused(tree: Path, fast: str) -> str:
    """What a node says that does not start."""
    done = run(tree, "app/main.py", "3331", "servers.txt", fast=fast)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr.strip()


@needs_build
def test_what_was_built_is_used_unless_that_is_not_wanted(tree: Path) -> None:
    assert asked(tree) == asked(tree, "on") == "compiled False"
    assert asked(tree, "off") == "python True"


def test_without_a_build_the_python_runs_unless_that_is_not_wanted(tree: Path) -> None:
    unbuild(tree)
    assert asked(tree) == asked(tree, "off") == "python True"
    assert refused(tree, "on") == "kv: KV_FAST is 'on', but app/fast is not built: run python tools/build_fast.py"


@needs_build
@pytest.mark.parametrize("change", ["source", "record", "module"])
def test_a_build_of_other_sources_or_half_of_one_is_not_used(tree: Path, change: str) -> None:
    folder = tree / "app" / "fast"
    if change == "source":
        with (folder / "codec.pyx").open("a") as file:
            file.write("\n")
    elif change == "record":
        (folder / "built.txt").write_text("")
    else:
        next(folder.glob("codec.*.so")).unlink()
    assert asked(tree) == "stale True"
    assert asked(tree, "off") == "python True"
    said = refused(tree, "on")
    assert said.startswith("kv: KV_FAST is 'on', but app/fast was built of other sources, or for another Python: run ")


@pytest.mark.parametrize("word", ["yes", "ON", "0"])
def test_any_other_word_is_refused(tree: Path, word: str) -> None:
    assert refused(tree, word) == f"kv: KV_FAST: '{word}' is neither 'on' nor 'off'"
    assert "neither 'on' nor 'off'" in run(tree, "-c", ASK, fast=word).stderr


@needs_compiler
def test_what_does_not_compile_is_one_line_and_leaves_no_build(tree: Path) -> None:
    for path in (tree / "app" / "fast").glob("*.pyx"):
        path.unlink()
    (tree / "app" / "fast" / "codec.pyx").write_text("def f(:\n    return\n")
    for arguments, status in (((), 0), (("--must",), 1)):
        done = run(tree, "tools/build_fast.py", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        assert done.stderr.startswith("build_fast.py: app/fast is not compiled, the node runs its Python: ")
        assert "codec.pyx:1" in done.stderr
    assert asked(tree) == "python True"


@needs_compiler
def test_what_a_compiler_warns_of_is_built_unless_it_is_not_to_be(tree: Path) -> None:
    """Other compilers, newer ones above all, warn of other things."""
    unbuild(tree)
    for path in (tree / "app" / "fast").glob("*.p*x*"):
        path.unlink()
    (tree / "app" / "fast" / "codec.pyx").write_text('cdef extern from *:\n    """\n#warning of this\n"""\n    pass\n')
    done = run(tree, "tools/build_fast.py", "--must", "--strict")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "#warning" in done.stderr
    assert run(tree, "tools/build_fast.py", "--must").returncode == 0


@needs_compiler
def test_a_build_from_nothing_says_nothing_and_is_used(tree: Path) -> None:
    unbuild(tree)
    for path in (tree / "app" / "fast").glob("*.p*x*"):
        if path.stem != "sockets":
            path.unlink()
    done = run(tree, "tools/build_fast.py", "--must")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run(tree, "-c", "from app import fast; print(fast.CORE)", fast="on").stdout == "compiled\n"

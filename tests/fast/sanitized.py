"""Run tests with the compiled core built under sanitizers, in a copy of the tree: python -m tests.fast.sanitized TESTS

Whatever AddressSanitizer or UndefinedBehaviorSanitizer find ends the run with their report. Exit status: pytest's; 0
with a word where it can't be built.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Runtime libraries that must be loaded before Python, whose own executable knows nothing of them: greenlet throws
# C++ exceptions, which AddressSanitizer watches.
_LIBRARIES = ("libasan.so", "libstdc++.so.6")


def main(tests: list[str]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        for name in ("app", "proto_gen", "tests", "tools"):
            shutil.copytree(
                ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "built.txt", "corpus")
            )
        for name in ("pyproject.toml", "servers.txt", "Makefile"):
            shutil.copy(ROOT / name, tree)
        build = (sys.executable, "tools/build_fast.py", "--must", "--sanitize", "address,undefined")
        if subprocess.run(build, cwd=tree, check=False).returncode:
            print("sanitize: skipped, for the compiled core can't be built", file=sys.stderr)
            return 0
        environment = os.environ | {
            "KV_FAST": "on",
            "LD_PRELOAD": " ".join(_library(name) for name in _LIBRARIES),
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own are many
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # or what lies beyond a block is CPython's, and nobody notices
        }
        # What the sanitizers say must not be caught with what tests print.
        command = (
            sys.executable,
            "-m",
            "pytest",
            "--capture=sys",
            "-k",
            "not pure",  # the Python has nothing that they could see
            "--ignore=tests/fast/test_choice.py",
            *tests,
        )
        return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


def _library(name: str) -> str:
    """Where the compiler has it."""
    found = subprocess.run(("gcc", f"-print-file-name={name}"), capture_output=True, text=True, check=True)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

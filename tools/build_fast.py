#!/usr/bin/env python3
"""Compile app/fast/*.pyx for the Python that runs this, where there is a C compiler; else say so in one line.

Whether it succeeds or not, a node starts: without the compiled pieces it runs the Python that they stand in for.
--folder tools/bench compiles the load generator of `make bench` instead.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from tools.start import start

    start("build_fast.py", "tools.build_fast")

import os
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from app import fast
from tools.cli import FAILED, OK, Parser, complain

HERE = Path(__file__).resolve().parent.parent
FOLDER = "app/fast"
COMPILE_ARGS = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fno-strict-aliasing"]
COMPILE_ARGS += ["-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fno-plt"]
LINK_ARGS = ["-Wl,-z,relro,-z,now"]


def lacking() -> str | None:
    """What it takes and is not there; None: nothing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python.h (Debian's python3-dev has it)"
    try:
        import Cython  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        return f"no {error.name} (pip install -r requirements-build.txt)"
    return None


def build(folder: str, sanitizers: str, *, strict: bool = False) -> None:
    """Compile what has changed in a folder of the repository, and record what app/fast was made of; the modules come to
    lie beside their sources. `strict`: a warning is an error."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    compile_args, link_args = list(COMPILE_ARGS), list(LINK_ARGS)
    if strict:
        compile_args.append("-Werror")
    if sanitizers:
        compile_args = [arg for arg in compile_args if "FORTIFY" not in arg]
        compile_args += ["-O1", "-g", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        compile_args.append(f"-fsanitize={sanitizers}")
        link_args.append(f"-fsanitize={sanitizers}")
    extensions = [
        Extension(
            ".".join((*Path(folder).parts, path.stem)),
            [str(path.relative_to(HERE))],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for path in sorted((HERE / folder).glob("*.pyx"))
    ]
    if folder == FOLDER:
        fast.RECORD.unlink(missing_ok=True)  # until all of it is there
    fingerprint = fast.fingerprint()
    made = cythonize(  # type: ignore[no-untyped-call]
        extensions, build_dir="build/fast", language_level=3, annotate=False, quiet=True
    )
    distribution = Distribution({"name": "kv-fast", "ext_modules": made})
    command = distribution.get_command_obj("build_ext")
    command.inplace, command.build_temp = 1, "build/fast"
    command.force = 1 if sanitizers else 0
    command.ensure_finalized()
    command.run()
    if folder == FOLDER:
        fast.RECORD.write_text(fingerprint + "\n")


def tried(folder: str, sanitizers: str, *, strict: bool = False) -> str | None:
    """Why it could not be built, in a line, for all that compilers say; None: it is."""
    with tempfile.TemporaryFile("w+", errors="replace") as said, _into(said):
        try:
            build(folder, sanitizers, strict=strict)
            return None
        except Exception as error:  # noqa: BLE001 - whatever a compiler or its driver fails with: the node runs without
            why = f"{type(error).__name__}: {error}"
        said.seek(0)
        first = next((line for line in said if re.search(r"\berror\b|^\S+\.pyx:\d+:\d+: ", line)), "")
    return " ".join((first or why).split())[:300]


@contextmanager
def _into(file: IO[str]) -> Iterator[None]:
    """What this process and its children write to the terminal goes there meanwhile."""
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def main() -> int:
    """Build, or say in one line why not; the exit status is 1 only with --must."""
    parser = Parser(prog="build_fast.py", description=__doc__)
    parser.add_argument(
        "--sanitize", default="", metavar="NAMES", help="build with these sanitizers: address,undefined"
    )
    parser.add_argument("--folder", default=FOLDER, metavar="PATH", help=f"of the sources (default {FOLDER})")
    parser.add_argument("--must", action="store_true", help="exit with 1 where it can't be built")
    parser.add_argument(
        "--strict", action="store_true", help="take warnings for errors: for CI, whose compiler is known"
    )
    arguments = parser.parse_args()
    os.chdir(HERE)
    why = lacking() or tried(arguments.folder, arguments.sanitize, strict=arguments.strict)
    if why is not None:
        and_then = ", the node runs its Python" if arguments.folder == FOLDER else ""
        complain("build_fast.py", f"{arguments.folder} is not compiled{and_then}: {why}")
        return FAILED if arguments.must else OK
    return OK

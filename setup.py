"""Makes the package `kvcluster` of the repository's packages app, proto_gen and tools. The rest is in pyproject.toml.

The problem: in the repository they are imported by these names (`python app/main.py` runs from a checkout with nothing
installed), but an installed package may not take names that a user's own project has. So a copy is made, in
build/package, in which they are parts of kvcluster and import each other as such; that is what is built. The
alternatives: relative imports don't reach from tools/ to app/, which are both at the top; a hook that finds `app` for
our modules alone slows every import and hides the code from type checkers.

Only import statements are changed, and the few texts that name a module or tell people what to type (IN_TEXTS). What
is left that would not work is an error here, not at the user's.

The compiled core (app/fast) is built where there is a C compiler; else one line says so, and nodes run its Python. With
KV_FAST=off it is left out, and the wheel is for every Python.
"""

import ast
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from tools.build_fast import COMPILE_ARGS, LINK_ARGS, lacking  # noqa: E402

STAGE = Path("build", "package")  # below HERE, as setuptools wants it
PACKAGE = "kvcluster"
OURS = ("app", "proto_gen", "tools")
RECORD = "built.txt"  # of the compiled core, in app/fast
# Of tools/ what the installed commands need; the others work on a checkout.
TOOLS = ("__init__.py", "start.py", "cli.py", "flood.py", "kv", "load")
DOCUMENT = Path("docs", "monitoring.md")  # what the status page leads to
OTHERS = shutil.ignore_patterns("__pycache__", "*.so", "*.c", RECORD)

IMPORT = re.compile(rf"^(\s*)(from|import|cimport)(\s+)({'|'.join(OURS)})(?=[.\s])", re.MULTILINE)
# In this order.
IN_TEXTS = {
    'import_module(f"app.': f'import_module(f"{PACKAGE}.app.',
    'import_module(f"tools.': f'import_module(f"{PACKAGE}.tools.',
    '"tools.kv.__main__"': f'"{PACKAGE}.tools.kv.__main__"',
    '"tools.flood"': f'"{PACKAGE}.tools.flood"',
    'It completes `kv` and `kv.py`: alias kv="python tools/kv.py".': "It completes `kv`.",
    "python tools/kv.py": "kv",
    "tools/kv.py": "kv",
    "kv.py": "kv",
    "python tools/flood.py": "kv-flood",
    "tools/flood.py": "kv-flood",
    "flood.py": "kv-flood",
    "python app/main.py": "kv-node",
    "run python tools/build_fast.py": "install it anew where there is a C compiler",
    "pip install -r requirements.lock": f"pip install '{PACKAGE}[server]'",
    "`make setup-dev`, then .venv/bin/python": f"pip install '{PACKAGE}[tools]'",
    "(make setup-dev)": f"(pip install '{PACKAGE}[report]')",
}


def stage() -> None:
    """Make the copy anew."""
    to = HERE / STAGE / PACKAGE
    shutil.rmtree(HERE / STAGE, ignore_errors=True)
    shutil.copytree(HERE / "deploy" / PACKAGE, to, ignore=OTHERS)
    for name in ("app", "proto_gen"):
        shutil.copytree(HERE / name, to / name, ignore=OTHERS)
    for name in TOOLS:
        source, target = HERE / "tools" / name, to / "tools" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target, ignore=OTHERS) if source.is_dir() else shutil.copy(source, target)
    (to / DOCUMENT).parent.mkdir()
    (to / DOCUMENT).write_text(moved((HERE / DOCUMENT).read_text(encoding="utf-8")), encoding="utf-8")
    for path in to.rglob("*.p*"):
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd"):
            text = moved(path.read_text(encoding="utf-8"))
            if wrong := [] if path.suffix in (".pyx", ".pxd") else list(left_over(text)):
                raise SystemExit(f"setup.py: {path.relative_to(to)}: {', '.join(wrong)}: names no part of {PACKAGE}")
            path.write_text(text, encoding="utf-8")


def moved(source: str) -> str:
    """A module's source, as it is when the packages are parts of ours."""
    for old, new in IN_TEXTS.items():
        source = source.replace(old, new)
    return IMPORT.sub(rf"\1\2\3{PACKAGE}.\4", source)


def left_over(source: str) -> Iterator[str]:
    """What still names one of the packages by its name in the repository: imports, and texts that could be modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OURS:
            yield str(node.module)
        elif isinstance(node, ast.Constant) and re.match(rf"({'|'.join(OURS)})\.\w+(\.\w*)*$", str(node.value)):
            yield str(node.value)


class BuildCore(build_ext):
    """Compiles the core whole, or leaves it out; and records what it was made of (app/fast/__init__.py)."""

    def run(self) -> None:
        folder = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        folder.joinpath(RECORD).unlink(missing_ok=True)  # of a build before, until this one is whole
        why = lacking()
        if why is None:
            try:
                self._compile(folder)
            except Exception as error:  # noqa: BLE001 - whatever a compiler or its driver fails with
                why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if why is not None:
            for made in map(Path, self.get_outputs()):
                made.unlink(missing_ok=True)
            self.extensions = []
            print(f"{PACKAGE}: the core is not compiled, nodes run its Python: {why}", file=sys.stderr)

    def _compile(self, folder: Path) -> None:
        from Cython.Build import cythonize

        made = cythonize(
            [Extension(one.name, one.sources) for one in self.extensions], language_level=3, annotate=False, quiet=True
        )
        for extension, compiled in zip(self.extensions, made, strict=True):
            extension.sources = compiled.sources
        super().run()
        fast = runpy.run_path(str(HERE / STAGE / PACKAGE / "app" / "fast" / "__init__.py"))
        (folder / RECORD).write_text(fast["fingerprint"]() + "\n")


def extensions() -> list[Extension]:
    if os.environ.get("KV_FAST") == "off":
        return []
    flags = [arg for arg in COMPILE_ARGS if arg != "-O2"]  # how much to optimize is Python's and CFLAGS' to say
    return [
        Extension(
            f"{PACKAGE}.app.fast.{path.stem}",
            [str(path.relative_to(HERE))],
            extra_compile_args=flags,
            extra_link_args=LINK_ARGS,
        )
        for path in sorted((HERE / STAGE / PACKAGE / "app" / "fast").glob("*.pyx"))
    ]


def version() -> str:
    return str(runpy.run_path(str(HERE / "app" / "version.py"))["VERSION"])


stage()
setup(
    version=version(),
    packages=find_packages(str(STAGE)),
    package_dir={"": str(STAGE)},
    package_data={"": ["*.pyi", "*.pyx", "*.pxd", "py.typed", "static/*", str(DOCUMENT)]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildCore},
)

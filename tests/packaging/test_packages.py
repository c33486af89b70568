"""The packages, as somebody gets them: built, installed in a fresh environment, used away from the checkout.

From a folder that has a package `app` and a message.proto of its own. With this Python all of it; with the others that
are here the client and `kv`, unless KV_PACKAGES=all asks for all of it with each.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.version import VERSION
from tests.deploy.test_lock import requirements
from tests.support.nodes import REPOSITORY, Node, environment
from tests.support.polling import DEADLINE_S, poll
from tests.support.ports import HOST, free_ports
from tools.build_fast import lacking
from tools.nodes import write_servers

OWN = sys.version_info[:2]
VERSIONS = [(3, minor) for minor in (11, 12, 13, 14)]
IS_ALL = os.environ.get("KV_PACKAGES") == "all"
INSTALL_S = 600.0  # of packages from PyPI; of the core's compilation, of which 80 s were seen beside other tests
BUILD = "import sys; from setuptools import build_meta as made; print(getattr(made, sys.argv[1])(sys.argv[2]))"

# With protobuf, in front of the next.
OWN_MESSAGES = """
import message_pb2
assert message_pb2.Msg(text="mine").text
"""
PROGRAM = """
import app  # the user's own
import kvcluster
from kvcluster import Client, KeyNotFound
assert app.MINE
with Client([{server!r}]) as client:
    client.put(b"key", b"value", version=3)
    assert client.get(b"key") == (b"value", 3)
    try:
        client.get(b"none")
    except KeyNotFound:
        print(kvcluster.__version__)
"""


def run(command: list[str | Path], cwd: Path, timeout_s: float = DEADLINE_S, **more: str) -> str:
    """What it prints; AssertionError with all of it unless it succeeds."""
    done = subprocess.run(
        command, cwd=cwd, env=environment() | more, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, tree: Path, into: Path, **more: str) -> tuple[Path, str]:
    """Build a "wheel" or an "sdist", with what the tests have installed: its file, and what was said on stderr."""
    into.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(into)],
        cwd=tree,
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return into / done.stdout.split()[-1], done.stderr


@dataclass
class Built:
    sdist: Path
    tree: Path  # the sdist, unpacked: what a wheel is made of
    wheel: Path  # of it, for any Python
    here: Path  # where a user works


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("packages")
    sdist, _ = build("sdist", REPOSITORY, directory)
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "unpacked", filter="data")
    (tree,) = (directory / "unpacked").iterdir()
    wheel, _ = build("wheel", tree, directory, KV_FAST="off")
    here = directory / "a project"
    (here / "app").mkdir(parents=True)
    (here / "app" / "__init__.py").write_text("MINE = True\n")
    (here / "message.proto").write_text('syntax = "proto3"; message Msg { string text = 1; }')
    run([sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "message.proto"], here)
    return Built(sdist, tree, wheel, here)


class Installed:
    """An environment of a Python of its own, and what is installed there."""

    def __init__(self, python: str, directory: Path, here: Path) -> None:
        self.bin = directory / "bin"
        self.here = here
        self._directory = directory
        run([python, "-m", "venv", "--without-pip", directory], here)

    def install(self, *what: str | Path) -> None:
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        run([*pip, "--disable-pip-version-check", *what], self.here, INSTALL_S)

    def run(self, *command: str | Path) -> str:
        return run([self.bin / command[0], *command[1:]], self.here)

    def refusal(self, *command: str) -> str:
        """The one line of a command that ends with status 2."""
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.here,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        return done.stderr

    def top_level(self) -> set[str]:
        """What has come to lie in site-packages."""
        (packages,) = self._directory.glob("lib/python*/site-packages")
        return {path.name for path in packages.iterdir()}


def python_of(version: tuple[int, int]) -> str:
    """One that runs; skips if there is none."""
    name = "python{}.{}".format(*version)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = pyenv.glob("{}.{}.*/bin/python".format(*version))
    for candidate in [sys.executable if version == OWN else shutil.which(name), *map(str, sorted(of_pyenv))]:
        if candidate is not None and _is_of(candidate, version):
            return candidate
    pytest.skip(f"no {name} here")


def _is_of(python: str, version: tuple[int, int]) -> bool:
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != {version!r})"
    return subprocess.run([python, "-c", code], capture_output=True, timeout=DEADLINE_S, check=False).returncode == 0


class InstalledNode(Node):
    """A node of the command kv-node."""

    def __init__(self, port: int, servers: Path, installed: Installed) -> None:
        super().__init__(port, servers, ("--bind", HOST))
        self._installed = installed

    def command(self) -> list[str]:
        return [str(self._installed.bin / "kv-node"), str(self.port), str(self.servers), *self.options]


@dataclass
class Serving:
    installed: Installed
    node: Node


def serving(built: Built, python: str, directory: Path, package: Path) -> Iterator[Serving]:
    """A fresh environment with a package and all its extras but the plots', and a node of it that runs."""
    installed = Installed(python, directory / "environment", built.here)
    installed.install("--no-deps", package)
    assert installed.top_level() == {"kvcluster", f"kvcluster-{VERSION}.dist-info"}
    (port,) = free_ports(1)
    servers = write_servers(directory, [port])
    assert installed.refusal("kv-node", str(port), str(servers)).endswith("pip install 'kvcluster[server]'\n")
    assert installed.refusal("kv-flood").endswith("pip install 'kvcluster[tools]'\n")
    installed.install(f"{package}[server,tools]")
    node = InstalledNode(port, servers, installed)
    try:
        node.start()
        poll(node.serves, complaint=lambda: node.log)
        yield Serving(installed, node)
    finally:
        node.close()


@pytest.fixture(scope="module")
def served(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With this Python, the core compiled if it can be."""
    directory = tmp_path_factory.mktemp("own")
    wheel, _ = build("wheel", built.tree, directory, CFLAGS="-O0 -w")  # takes half as long
    yield from serving(built, sys.executable, directory, wheel)


def use(installed: Installed, server: str) -> None:
    """The client and the command line, as a user would."""
    assert installed.run("python", "-c", PROGRAM.format(server=server)) == f"{VERSION}\n"
    assert installed.run("kv", "--version") == f"kv {VERSION}\n"
    installed.run("kv", "-s", server, "put", "greeting", "hello")
    assert installed.run("kv", "get", "-s", server, "greeting") == "hello"
    assert installed.run("kv", "-s", server, "status").startswith("whole: 1 of 1 servers")
    assert "kv put greeting" in installed.run("kv", "put", "--help")


def use_all(serving: Serving) -> None:
    """What the extras bring, and a node from its start to its end."""
    installed, node = serving.installed, serving.node
    use(installed, node.name)
    both = OWN_MESSAGES + PROGRAM.format(server=node.name) + "import kvcluster.proto_gen.message_pb2"
    installed.run("python", "-c", both)
    assert installed.run("kv-node", "--version") == f"kv-node {VERSION}\n"
    assert "kv-node 3331 servers.txt" in installed.run("kv-node", "--help")
    assert "kv-flood" in installed.run("kv-flood", "--help")
    flood = ("--operations", "200", "--processes", "2", "--quiet")
    assert " errors 0 " in installed.run("kv-flood", "-s", node.name, *flood)
    given = Path(f"/proc/{node.process.pid}/environ").read_bytes().split(b"\0")
    assert b"PYTHONMALLOC=malloc" in given, "it started itself anew"
    node.send_signal(signal.SIGTERM)
    assert node.process.wait(DEADLINE_S) == 0
    assert " node.stopped" in node.log


def test_client_command_line_node_and_load_generator(served: Serving) -> None:
    core = "python" if lacking() else "compiled"
    assert f" core={core} " in served.node.log
    assert f" version={VERSION} " in served.node.log
    use_all(served)
    served.node.start()  # for whoever comes next
    poll(served.node.serves)


@pytest.mark.parametrize("version", [one for one in VERSIONS if one != OWN], ids="{0[0]}.{0[1]}".format)
def test_other_pythons(version: tuple[int, int], built: Built, served: Serving, tmp_path: Path) -> None:
    python = python_of(version)
    if IS_ALL:
        for serving_other in serving(built, python, tmp_path, built.sdist):
            use_all(serving_other)
        return
    installed = Installed(python, tmp_path / "environment", built.here)
    installed.install("--no-deps", built.wheel)
    shutil.rmtree(built.here / "__pycache__", ignore_errors=True)
    use(installed, served.node.name)


def test_nothing_but_the_package_is_in_it(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        document = wheel.read("kvcluster/docs/monitoring.md").decode()
    assert "    kv -s 127.0.0.1:3331 slowlog\n" in document
    assert "tools/kv.py" not in document
    assert {name.partition("/")[0] for name in names} == {"kvcluster", f"kvcluster-{VERSION}.dist-info"}
    shown = {"kvcluster/app/http/static/status.html", "kvcluster/docs/monitoring.md"}
    assert {"kvcluster/py.typed", *shown} <= set(names)
    assert not [name for name in names if re.search(r"/(bench|tests)/|\.so$|\.c$|built\.txt", name)]
    with tarfile.open(built.sdist) as sdist:
        parts = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert {"app", "proto", "proto_gen", "tools", "setup.py", "pyproject.toml", "CHANGELOG.md"} <= parts
    assert not parts & {"tests", ".git", ".venv"}


def test_without_a_compiler_one_line_says_so_and_the_python_is_built(built: Built, tmp_path: Path) -> None:
    wheel, said = build("wheel", built.tree, tmp_path, PATH="/nonexistent")
    (line,) = (line for line in said.splitlines() if line.startswith("kvcluster: "))
    assert line.startswith("kvcluster: the core is not compiled, nodes run its Python: no C compiler")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", "built.txt"))]


def test_the_extras_are_what_the_requirements_files_say() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {name: requirements("\n".join(lines)) for name, lines in project["optional-dependencies"].items()}
    assert project["dependencies"] == []
    assert extras["server"] == requirements((REPOSITORY / "requirements.txt").read_text())
    dev = (REPOSITORY / "requirements-dev.txt").read_text()
    wanted = requirements("\n".join(line for line in dev.splitlines() if not line.startswith("-r")))
    for name, requirement in (extras["tools"] | extras["report"]).items():
        assert requirement == wanted[name]

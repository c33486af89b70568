"""What the Dockerfile and the compose files say, as far as it can be checked without a container engine.

The image's files are laid out as the COPY lines say and run from there, so that a module which the node or
the health check needs can't be forgotten in them.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.config import servers
from app.config.cgroup import KERNEL_ROOM_BYTES
from app.config.options import settings
from app.config.values import parse_size
from tests.deploy import compose
from tests.support.nodes import REPOSITORY
from tools.build_fast import lacking

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def instructions(name: str, stages: slice = slice(-1, None)) -> list[str]:
    """The arguments of every such instruction of the last stage, which is the image, or of these; continuation lines
    joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    joined = "\n".join("FROM" + stage for stage in joined.split("\nFROM")[1:][stages])
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the image has in /srv/kv."""
    root = tmp_path_factory.mktemp("image")
    return laid_out(root, slice(-1, None))


def laid_out(root: Path, stages: slice) -> Path:
    for copy in instructions("COPY", stages):
        *sources, target = copy.split()
        if sources[0].startswith("--from"):
            continue  # a later stage has what was compiled in one before, where there is a compiler
        for source in sources:
            if source.endswith("/"):
                shutil.copytree(REPOSITORY / source, root / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (root / target).mkdir(exist_ok=True)
                shutil.copy(REPOSITORY / source, root / target)
    return root


def run(image: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    assert command[0] == "python"
    return subprocess.run(
        # -P and an own directory: nothing of the checkout can be imported by accident.
        [sys.executable, *command[1:]],
        cwd=image,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ.get("PATH", os.defpath)},
        capture_output=True,
        text=True,
        timeout=600,  # of the core's compilation: 80 s were seen beside other tests
        check=False,
    )


def test_the_node_has_all_it_imports(image: Path) -> None:
    (entry,) = instructions("ENTRYPOINT")
    done = run(image, [*json.loads(entry), "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    done = run(image, ["python", "-c", "import app.main, app.process"])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_health_check_has_all_it_imports(image: Path) -> None:
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD")[2])
    assert command[-1] == "ping"
    done = run(image, [*command[:2], "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    # Port 1 of this machine: nothing answers there, and the kernel says so at once or not at all.
    done = run(image, ["127.0.0.1:1" if word == "127.0.0.1:3331" else word for word in command])
    assert done.returncode not in (0, 2)
    assert "Traceback" not in done.stderr


def test_the_image_needs_only_what_requirements_txt_names(image: Path) -> None:
    """Packages for development aren't in the image; the node and the health check must not import them."""
    development = (REPOSITORY / "requirements-dev.txt").read_text()
    names = {name.replace("-", "_") for name in re.findall(r"^([a-z]\S*?)[<>=~]", development, re.MULTILINE)}
    imported: set[str] = set()
    for path in image.rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                imported.add(statement.module.partition(".")[0])
    assert {"hypothesis", "pytest", "tqdm"} <= names
    assert not imported & (names | {"hdrh"})


def test_what_is_copied_reaches_the_engine() -> None:
    """.dockerignore leaves all out but what it names."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copies = [copy for copy in instructions("COPY", slice(None)) if not copy.startswith("--from")]
    sources = {source.partition("/")[0] for copy in copies for source in copy.split()[:-1]}
    assert sources == let_in


def test_it_runs_as_nobody_in_particular_and_as_process_1() -> None:
    (user,) = instructions("USER")
    assert user.split(":")[0].isdecimal()
    assert int(user.split(":")[0]) > 0
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["python", "app/main.py"]
    (arguments,) = instructions("CMD")
    assert json.loads(arguments) == ["3331", "servers.txt"]
    assert instructions("EXPOSE") == ["3331/udp 3331/tcp"]


def test_images_are_named_by_digest_or_built_here() -> None:
    base, *stages = instructions("FROM", slice(None))
    assert re.fullmatch(r"python:[0-9.]+-slim-[a-z]+@sha256:[0-9a-f]{64} AS base", base)
    assert stages == ["base AS build", "base"]
    for name in compose.FILES:
        for service in services(name).values():
            assert (service["build"], service["image"], service["pull_policy"]) == ("..", "kvcluster", "build")


@pytest.mark.parametrize(
    ("stage", "lock"), [(slice(-1, None), "requirements.lock"), (slice(1, 2), "requirements-build.lock")]
)
def test_the_image_takes_the_very_files_of_the_lock(stage: slice, lock: str) -> None:
    (install,) = (command for command in instructions("RUN", stage) if "pip install" in command)
    assert f"--require-hashes --only-binary :all: -r {lock}" in install
    assert f"{lock} ./" in instructions("COPY", stage)


def test_the_image_has_the_compiled_core_and_no_compiler() -> None:
    assert "--from=build /srv/kv/app/fast/ app/fast/" in instructions("COPY")
    assert not any("apt-get" in command for command in instructions("RUN"))
    assert any("KV_FAST=on" in command for command in instructions("RUN"))


@pytest.mark.skipif(lacking() is not None, reason=f"nothing can be compiled here: {lacking()}")
def test_what_is_copied_is_enough_to_compile_it(tmp_path: Path) -> None:
    tree = laid_out(tmp_path, slice(1, 2))
    shutil.rmtree(tree / "build", ignore_errors=True)
    for path in (tree / "app" / "fast").glob("*.so"):
        path.unlink()
    (command,) = (command for command in instructions("RUN", slice(1, 2)) if command.startswith("python"))
    done = run(tree, command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert (tree / "app" / "fast" / "built.txt").exists()


def services(name: str, **variables: str) -> dict[str, Any]:
    if name != "compose.yaml":
        variables = {"KV_CLUSTER_SECRET": "a secret"} | variables
    found: dict[str, Any] = compose.read(name, variables)["services"]
    return found


@pytest.mark.parametrize("name", compose.FILES)
def test_compose_publishes_on_loopback_unless_told_otherwise(name: str) -> None:
    for address, told in (("127.0.0.1", {}), ("192.0.2.7", {"KV_PUBLISH": "192.0.2.7"})):
        ports = [tuple(service["ports"]) for service in services(name, **told).values()]
        assert ports == [
            (f"{address}:{3331 + number}:3331/udp", f"{address}:{9331 + number}:9331/tcp")
            for number in range(len(ports))
        ]


def test_a_cluster_asks_for_a_secret() -> None:
    with pytest.raises(compose.Unset, match=r"KV_CLUSTER_SECRET: .*head -c 24"):
        compose.read("compose-3.yaml", {})
    for service in services("compose-3.yaml", KV_CLUSTER_SECRET="the secret").values():
        assert service["environment"]["KV_CLUSTER_SECRET"] == "the secret"


@pytest.mark.parametrize("name", compose.FILES)
def test_compose_passes_every_option_on(name: str) -> None:
    passed = {setting.variable for _, setting in settings()} | {"KV_FAST"}
    passed -= {"KV_BIND", "KV_HTTP_BIND", "KV_ADVERTISE", "KV_HTTP"}  # they say where it listens
    told = {variable: f"of {variable}" for variable in passed}
    for service in services(name, **told).values():
        given = dict(service["environment"])
        assert given.pop("KV_HTTP") == "9331"
        given.pop("KV_CLUSTER_SECRET", None)
        assert given == told
    for service in services(name).values():  # empty is unset
        assert set(service["environment"].values()) <= {"", "9331", "a secret"}


@pytest.mark.parametrize("name", compose.FILES)
def test_compose_leaves_a_node_room_and_time(name: str) -> None:
    default = next(setting.default for _, setting in settings() if setting.option == "--max-memory")
    assert default is not None
    leave = next(setting.default for _, setting in settings() if setting.option == "--leave-timeout")
    for service in services(name).values():
        assert parse_size(service["mem_limit"]) == parse_size(default) + KERNEL_ROOM_BYTES
        assert service["restart"] == "on-failure"  # not "always": a node told SHUTDOWN stays down
        assert float(service["stop_grace_period"].removesuffix("s")) > float(str(leave))
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    for service in services(name, KV_MEMORY_LIMIT="288m").values():
        assert service["mem_limit"] == "288m"


def test_the_three_nodes_have_the_names_and_addresses_that_they_are_told() -> None:
    nodes = services("compose-3.yaml")
    given = {name: service["networks"]["kv"]["ipv4_address"] for name, service in nodes.items()}
    entries = servers.parse((DEPLOY / "servers-3.txt").read_bytes(), "servers-3.txt")
    for service in nodes.values():
        told = dict(line.split(":") for line in service["extra_hosts"])
        assert told == given
        assert "./servers-3.txt:/srv/kv/servers.txt:ro" in service["volumes"]
    assert list(told) == [entry.host for entry in entries]
    assert {entry.port for entry in entries} == {3331}
    resolved = servers.resolve(entries, "servers-3.txt", lambda host: [told[host]])
    for server in resolved:
        assert servers.find_me(resolved, 3331, name="f", local=given[server.host].__eq__) == server


def test_the_image_is_labelled_and_has_one_name_everywhere() -> None:
    (labels,) = instructions("LABEL")
    named = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert (named["title"], named["version"], named["revision"]) == ("kvcluster", "$VERSION", "$REVISION")
    assert {argument.partition("=")[0] for argument in instructions("ARG")} == {"VERSION", "REVISION"}
    for name in ("Dockerfile", "Makefile", "README.md", "docs/operations.md"):
        text = (REPOSITORY / name).read_text()
        assert set(re.findall(r"docker build -t (\S+)", text)) == {"kvcluster"}, name
        assert set(re.findall(r"servers\.txt:ro\S* (\S+) 3331", text)) <= {"kvcluster"}, name


def test_nothing_can_be_installed_in_it() -> None:
    (install,) = (command for command in instructions("RUN") if "pip install" in command)
    assert re.search(r"&& pip uninstall --yes .*\bpip\b", install)
    assert not any("pip" in command for command in instructions("RUN") if command != install)

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

import pytest

from app.config import servers
from app.config.options import parse_size, settings
from tests.support.nodes import REPOSITORY
from tools.build_fast import lacking

DEPLOY = REPOSITORY / "deploy"
COMPOSE = ("compose.yaml", "compose-3.yaml")
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
        timeout=60,
        check=False,
    )


def test_the_node_has_all_it_imports(image: Path) -> None:
    (entry,) = instructions("ENTRYPOINT")
    done = run(image, [*json.loads(entry), "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    done = run(image, ["python", "-c", "import app.main, app.node"])
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
    for name in COMPOSE:
        text = (DEPLOY / name).read_text()
        images = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
        assert images == ["kvcluster"] * len(
            re.findall(r"^ +build: \.\.\n +image: kvcluster\n +pull_policy: build\b", text, re.MULTILINE)
        )


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


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_publishes_on_loopback_unless_told_otherwise(name: str) -> None:
    published = re.findall(r'"([^"]*/(?:udp|tcp))"', (DEPLOY / name).read_text())
    assert published
    for port in published:
        assert re.fullmatch(r"\$\{KV_PUBLISH:-127\.0\.0\.1\}:(333[1-3]:3331/udp|933[1-3]:9331/tcp)", port)


def test_a_cluster_asks_for_a_secret() -> None:
    text = (DEPLOY / "compose-3.yaml").read_text()
    assert re.search(
        r'^    KV_CLUSTER_SECRET: "\$\{KV_CLUSTER_SECRET:\?[^}"]*head -c 24 [^}"]*\}"$', text, re.MULTILINE
    )
    for service in re.findall(r"^  kv\d:\n((?:    .*\n)*)", text, re.MULTILINE):
        assert "<<: *node" in service
        assert "environment:" not in service  # it would be instead of the node's


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_leaves_a_node_room_and_time(name: str) -> None:
    text = (DEPLOY / name).read_text()
    (limit,) = re.findall(r"^ +mem_limit: (\S+)$", text, re.MULTILINE)
    default = next(setting.default for _, setting in settings() if setting.option == "--max-memory")
    assert default is not None
    assert parse_size(limit) >= parse_size(default) + (32 << 20)
    assert "restart: on-failure\n" in text  # not "always": a node told SHUTDOWN stays down
    assert "stop_grace_period: 15s\n" in text
    variables = set(re.findall(r"^ +(KV_\w+): \$\{(\w+):-\}$", text, re.MULTILINE))
    known = {setting.variable for _, setting in settings()}
    where_it_listens = {"KV_BIND", "KV_HTTP_BIND", "KV_ADVERTISE", "KV_HTTP"}
    assert {variable for variable, _ in variables} == (known - where_it_listens) | {"KV_FAST"}
    assert re.findall(r'^ +KV_HTTP: "(\d+)"$', text, re.MULTILINE) == ["9331"]
    assert all(inside == outside for inside, outside in variables)


def test_the_three_nodes_have_the_names_and_addresses_that_they_are_told() -> None:
    text = (DEPLOY / "compose-3.yaml").read_text()
    told = dict(re.findall(r'^ +- "(kv\d):([0-9.]+)"$', text, re.MULTILINE))
    given = dict(re.findall(r"^  (kv\d):\n(?:    .*\n)*?        ipv4_address: ([0-9.]+)$", text, re.MULTILINE))
    entries = servers.parse((DEPLOY / "servers-3.txt").read_bytes(), "servers-3.txt")
    assert told == given
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

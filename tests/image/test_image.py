"""The image that `make image` makes, and what compose starts of it: nodes that serve, in containers.

`.ci/run` installs what this takes; elsewhere it is skipped, and says why. What is not tried: images.py.
"""

import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.client import Client, KeyNotFound
from app.version import VERSION
from tests.deploy import compose
from tests.image.containers import Container
from tests.image.images import Images, python_version, run, why_not
from tests.lab.namespaces import Namespace
from tests.support.nodes import REPOSITORY
from tests.support.polling import poll

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

HOST, PORT, HTTP = "127.0.0.1", 3331, 9331
SECRET = "of the containers, long enough"


@dataclass
class Built:
    files: Path
    settings: Mapping[str, Any]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    images = Images(tmp_path_factory.mktemp("images"))
    try:
        images.build()
        yield Built(images.files(), images.settings())
    finally:
        images.close()


@pytest.fixture
def network() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def variables() -> dict[str, str]:
    """What compose finds in its environment."""
    return {}


@pytest.fixture
def node(image: Built, network: Namespace, tmp_path: Path, variables: dict[str, str]) -> Iterator[Container]:
    """The one of compose.yaml; it serves."""
    (service,) = compose.read("compose.yaml", variables)["services"].values()
    container = Container("kv", tmp_path / "kv", image.files, image.settings, service, network)
    try:
        container.start()
        poll(lambda: is_healthy(container, image), complaint=lambda: container.log)
        yield container
    finally:
        container.close()


def checked(container: Container, image: Built) -> subprocess.CompletedProcess[str]:
    kind, *command = image.settings["Healthcheck"]["Test"]
    assert kind == "CMD"
    return container.do(*command)


def is_healthy(container: Container, image: Built) -> bool:
    return checked(container, image).returncode == 0


def test_nothing_can_be_installed_or_compiled_in_it(node: Container) -> None:
    assert "No module named pip" in node.do("python", "-m", "pip").stderr
    for program in ("pip", "pip3", "cc", "gcc", "make"):
        assert node.do("sh", "-c", f"command -v {program}").returncode, program


def test_it_runs_as_a_user_who_owns_nothing(node: Container) -> None:
    assert node.do("id", "-u").stdout == "10001\n"
    assert node.do("find", "/", "-xdev", "-user", "10001").stdout == ""
    status = node.do("cat", "/proc/1/status").stdout
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert node.do("cat", "/proc/1/cmdline").stdout.split("\0")[:2] == ["/usr/local/bin/python", "app/main.py"]


def test_it_says_what_it_is(image: Built) -> None:
    labels = {name.rpartition(".")[2]: value for name, value in image.settings["Labels"].items()}
    commit = run(["git", "rev-parse", "HEAD"]).strip()
    assert (labels["title"], labels["version"], labels["revision"]) == ("kvcluster", VERSION, commit)
    assert sorted(image.settings["ExposedPorts"]) == ["3331/tcp", "3331/udp"]


def test_it_serves(node: Container, network: Namespace) -> None:
    with network.entered(), Client([f"{HOST}:{PORT}"]) as client:
        client.put(b"key", b"value", version=7)
        assert client.get(b"key") == (b"value", 7)
        with pytest.raises(KeyNotFound):
            client.get(b"another")
        status = client.status()
        for page, expected in (("health", b'"alive"'), ("ready", b'"ready":true'), ("", b"<title>")):
            with urllib.request.urlopen(f"http://{HOST}:{HTTP}/{page}", timeout=30) as answer:
                assert expected in answer.read(), page
        with urllib.request.urlopen(f"http://{HOST}:{HTTP}/docs", timeout=30) as answer:
            assert answer.read() == (REPOSITORY / "docs" / "monitoring.md").read_bytes()
    assert " node.memory_is_short " not in node.log
    assert (status["version"], status["core"]) == (VERSION, "compiled")
    assert node.do("python", "--version").stdout.startswith(f"Python {python_version()}.")


def test_a_full_store_stays_within_the_container(node: Container, network: Namespace) -> None:
    value = bytes(900)
    with network.entered(), Client([f"{HOST}:{PORT}"], timeout_s=60.0) as client:
        for first in range(0, 100_000, 5_000):
            client.put_many({b"%d" % number: value for number in range(first, first + 5_000)})
        with pytest.raises(KeyNotFound):
            client.get(b"0")
        assert client.get(b"99999").value == value


@pytest.mark.parametrize("variables", [{"KV_MAX_MEMORY": "144MiB"}])
def test_a_container_that_is_too_small_is_told(node: Container) -> None:
    limit, needed = 160 << 20, 176 << 20
    assert f" node.memory_is_short there_bytes={limit} needed_bytes={needed}" in node.log


def test_the_health_check_fails_while_it_hangs(node: Container, image: Built) -> None:
    node.signal(signal.SIGSTOP)
    try:
        assert "no answer" in checked(node, image).stderr
    finally:
        node.signal(signal.SIGCONT)
    assert is_healthy(node, image)


def test_it_ends_as_docker_stop_asks(node: Container) -> None:
    node.signal(signal.SIGTERM)
    assert node.ends() == 0
    assert " node.stopped" in node.log


def test_three_of_them_are_a_cluster(image: Built, network: Namespace, tmp_path: Path) -> None:
    """compose-3.yaml: its names and addresses, on cables to a router that answers for all of them."""
    services = compose.read("compose-3.yaml", {"KV_CLUSTER_SECRET": SECRET})["services"]
    network.sysctl("ipv4/ip_forward", 1)
    with ExitStack() as undo:
        containers = []
        for number, (name, service) in enumerate(services.items()):
            own = Namespace()
            undo.callback(own.close)
            address = service["networks"]["kv"]["ipv4_address"]
            network.ip(
                f"link add name leg{number} type veth peer name eth0 netns {own.path}",
                f"link set leg{number} up",
                f"route add {address}/32 dev leg{number}",
            )
            network.sysctl(f"ipv4/conf/leg{number}/proxy_arp", 1)
            own.ip(f"addr add {address}/24 dev eth0", "link set eth0 up")
            containers.append(Container(name, tmp_path / name, image.files, image.settings, service, own))
            undo.callback(containers[-1].close)
        network.ip("addr add 10.231.31.1/32 dev lo")
        for container in containers:
            container.start()
        last = containers[-1]
        wait = ("python", "tools/kv.py", "-s", "kv1", "wait-ready", "--members", "3", "--timeout", "20")
        poll(lambda: last.do(*wait).returncode == 0, complaint=lambda: "\n".join(one.log for one in containers))
        assert last.do("python", "tools/kv.py", "-s", "kv1", "put", "greeting", "hello").returncode == 0
        containers[0].signal(signal.SIGTERM)
        assert containers[0].ends() == 0
        assert last.do("python", "tools/kv.py", "-s", "kv2", "get", "greeting").stdout == "hello"

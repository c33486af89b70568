"""Nodes that an etcd coordinates: real processes of both, of one etcd and of three; killed, stopped, out of reach."""

import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.wire.protocol import GET, NO_ERR, PUT, SYS_OVERLOAD_ERR
from tests.integration.traffic import Traffic
from tests.support.etcd import ABSENT, PROGRAM, Forwarder, Member, etcd
from tests.support.nodes import HOST, Node, await_count, cluster
from tests.support.polling import poll

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=ABSENT)
NAME = "kv1"


@pytest.fixture
def one_etcd(tmp_path: Path) -> Iterator[Member]:
    with etcd(tmp_path) as (member,):
        yield member


def coordinated_by(*urls: str) -> tuple[str, ...]:
    return ("--bind", HOST, "--coordination", f"etcd:{','.join(urls)}/{NAME}")


def urls(members: list[Member]) -> list[str]:
    return [member.url for member in members]


def start(nodes: list[Node]) -> None:
    for node in nodes:
        node.start()
    await_count(nodes, len(nodes))
    poll(lambda: all(node.status().get("balanced") for node in nodes), complaint="all copies are there")


def coordinator_of(nodes: list[Node]) -> Node:
    name = nodes[-1].status()["coordinator"]
    return next(node for node in nodes if node.name == name)


def fill(node: Node) -> dict[bytes, bytes]:
    """What was acknowledged."""
    values = {b"key %d" % number: b"value %d" % number for number in range(100)}
    for key, value in values.items():
        assert node.code(PUT, key=key, value=value) == NO_ERR
    return values


def assert_kept(node: Node, values: dict[bytes, bytes]) -> None:
    def is_kept(key: bytes, value: bytes) -> bool:
        answer = node.ask(GET, key=key)
        return answer is not None and answer.errCode == NO_ERR and answer.value == value

    for key, value in values.items():
        poll(lambda key=key, value=value: is_kept(key, value), complaint=f"{key!r} is read as written")


def is_refusing(node: Node) -> bool:
    """Whether it answers that it can't serve now."""
    answer = node.ask(GET, key=b"key 1", patience_s=2.0)
    return answer is not None and answer.errCode == SYS_OVERLOAD_ERR


def says(node: Node, word: str) -> bool:
    return any(word in reason for reason in node.status().get("reasons", []))


def test_nodes_found_join_and_go_on_to_the_last(tmp_path: Path, one_etcd: Member) -> None:
    with cluster(tmp_path, 3, arguments=coordinated_by(one_etcd.url)) as nodes:
        start(nodes)
        values = fill(nodes[0])
        seat = one_etcd.post("/v3/kv/range", {"key": b64encode(f"/kv/{NAME}/seat".encode()).decode()})
        assert seat["count"] == "1"
        left = list(nodes)
        while len(left) > 1:
            gone = coordinator_of(left)
            left.remove(gone)
            gone.kill()
            await_count(left, len(left))
            assert_kept(left[-1], values)
            poll(lambda: left[-1].status().get("balanced"), complaint="all copies are there")
        for node in nodes:
            if node is not left[0]:
                node.start()
        await_count(nodes, 3)
        assert_kept(nodes[0], values)


def test_a_stopped_coordinator_is_replaced_and_comes_back_as_an_outsider(tmp_path: Path, one_etcd: Member) -> None:
    with cluster(tmp_path, 3, arguments=coordinated_by(one_etcd.url)) as nodes:
        start(nodes)
        values = fill(nodes[0])
        first = coordinator_of(nodes)
        others = [node for node in nodes if node is not first]
        first.process.send_signal(signal.SIGSTOP)
        await_count(others, 2)
        assert_kept(others[0], values)
        first.process.send_signal(signal.SIGCONT)
        await_count(nodes, 3)
        assert_kept(first, values)


def test_while_etcd_is_down_all_serve_until_one_is_gone(tmp_path: Path, one_etcd: Member) -> None:
    with cluster(tmp_path, 3, arguments=coordinated_by(one_etcd.url)) as nodes:
        start(nodes)
        values = fill(nodes[0])
        one_etcd.kill()
        poll(lambda: "no answer of the register" in coordinator_of(nodes).log, complaint="it is noticed")
        for _ in range(3):
            assert_kept(nodes[1], values)
        assert not coordinator_of(nodes).status()["reasons"]
        victim = next(node for node in nodes if node is not coordinator_of(nodes))
        others = [node for node in nodes if node is not victim]
        victim.kill()
        poll(lambda: all(map(is_refusing, others)), complaint="nobody serves")
        poll(lambda: all(says(node, "the register: http://") for node in others), complaint="all say why")
        one_etcd.start()
        await_count(others, 2)
        assert_kept(others[0], values)


def test_a_lost_answer(tmp_path: Path, one_etcd: Member) -> None:
    """The register has taken the view in which a killed node is no more, and nobody is told."""
    forwarder = Forwarder(one_etcd.port)
    with closing(forwarder), cluster(tmp_path, 3, arguments=coordinated_by(forwarder.url)) as nodes:
        start(nodes)
        values = fill(nodes[0])
        victim = next(node for node in nodes if node is not coordinator_of(nodes))
        others = [node for node in nodes if node is not victim]
        forwarder.swallows.set()
        poll(lambda: forwarder.swallowed > 0, complaint="an answer is swallowed")
        victim.kill()
        count = forwarder.swallowed
        poll(lambda: forwarder.swallowed > count + 3, complaint="some more are")
        forwarder.swallows.clear()
        await_count(others, 2)
        assert_kept(others[1], values)


def test_three_etcds_of_which_one_is_killed_and_one_stopped(tmp_path: Path) -> None:
    with etcd(tmp_path, 3) as members, cluster(tmp_path, 3, arguments=coordinated_by(*urls(members))) as nodes:
        start(nodes)
        values = fill(nodes[0])
        for member, number in ((members[0], signal.SIGKILL), (members[1], signal.SIGSTOP)):
            member.send(number)
            assert_kept(nodes[0], values)
            if number == signal.SIGKILL:
                victim = coordinator_of(nodes)
                victim.kill()
                await_count([node for node in nodes if node is not victim], 2)
                victim.start()
                await_count(nodes, 3)
            member.send(signal.SIGCONT)
            if number == signal.SIGKILL:
                member.kill()
                member.start()
                poll(lambda: all(one.is_up() for one in members), complaint="etcd is whole again")
            assert_kept(nodes[2], values)


def test_no_file_names_the_servers(tmp_path: Path, one_etcd: Member) -> None:
    """Each is told where others may be, and one is that nobody was told of; then those that were named are gone."""
    secret = {"KV_CLUSTER_SECRET": "correct horse battery staple"}
    with cluster(tmp_path, 4, environment=secret, arguments=coordinated_by(one_etcd.url)) as nodes:
        for node in nodes:
            node.seeds = [other.name for other in nodes[:3]]
        start(nodes)
        values = fill(nodes[0])
        left = nodes
        for gone in nodes[:3]:
            left = left[1:]
            gone.kill()
            await_count(left, len(left))
            poll(lambda left=left: left[-1].status().get("balanced"), complaint="all copies are there")
            assert_kept(left[-1], values)


def test_etcds_leader_changes_under_load(tmp_path: Path) -> None:
    with etcd(tmp_path, 3) as members, cluster(tmp_path, 3, arguments=coordinated_by(*urls(members))) as nodes:
        start(nodes)
        epoch = nodes[0].status()["epoch"]
        with Traffic(nodes) as traffic:
            traffic.go_on(300)
            leader = next(member for member in members if member.is_leader())
            leader.kill()
            poll(lambda: any(one.is_leader() for one in members if one is not leader), complaint="another leads")
            traffic.go_on(300)
        traffic.check()
        assert {node.status()["epoch"] for node in nodes} == {epoch}


def test_wiped_it_is_refused_with_a_line_and_nobody_drops_anything(tmp_path: Path, one_etcd: Member) -> None:
    with cluster(tmp_path, 2, arguments=coordinated_by(one_etcd.url)) as nodes:
        start(nodes)
        values = fill(nodes[0])
        prefix = {"key": b64encode(b"/kv/").decode(), "range_end": b64encode(b"/kv0").decode()}
        assert one_etcd.post("/v3/kv/deleterange", prefix)["deleted"] == "2"
        poll(lambda: all(map(is_refusing, nodes)), complaint="nobody serves")
        poll(lambda: any("the register is refused: it is empty" in node.log for node in nodes), complaint="it is said")
        found = subprocess.run(
            [sys.executable, "tools/kv.py", "--server", f"{HOST}:{nodes[0].port}", "found", "--force"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert found.returncode == 0, found.stderr + found.stdout
        poll(lambda: len(one_etcd.post("/v3/kv/range", prefix).get("kvs", [])) == 2, complaint="it is written")
        await_count(nodes, 2)
        assert_kept(nodes[1], values)


def test_a_user_and_a_password(tmp_path: Path, one_etcd: Member) -> None:
    for path, content in (
        ("/v3/auth/user/add", {"name": "root", "password": "secret"}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
        ("/v3/auth/enable", {}),
    ):
        assert "header" in one_etcd.post(path, content)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("root:secret\n")
    wrong.write_text("root:guessed\n")
    for file, word in ((None, "user"), (wrong, "authentication failed")):
        options = () if file is None else ("--etcd-user-file", str(file))
        with cluster(tmp_path, 1, arguments=(*coordinated_by(one_etcd.url), *options)) as (node,):
            node.start()
            poll(lambda node=node, word=word: says(node, word), complaint=f"it says {word!r}")
    with cluster(tmp_path, 1, arguments=(*coordinated_by(one_etcd.url), "--etcd-user-file", str(right))) as (node,):
        node.start()
        poll(node.serves, complaint="it serves")


def test_tls(tmp_path: Path) -> None:
    """etcd's own certificate, made for the purpose, which the node is told to trust; and not, if it is not."""
    certificate, key = str(tmp_path / "cert"), str(tmp_path / "key")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=etcd -addext subjectAltName=IP:127.0.0.1"
    made = subprocess.run([*command.split(), "-keyout", key, "-out", certificate], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    with etcd(tmp_path, 1, ("--cert-file", certificate, "--key-file", key), scheme="https") as (member,):
        trusted = (*coordinated_by(member.url), "--etcd-ca-file", str(tmp_path / "cert"))
        with cluster(tmp_path, 1, arguments=trusted) as (node,):
            node.start()
            poll(node.serves, complaint="it serves")
        with cluster(tmp_path, 1, arguments=coordinated_by(member.url)) as (node,):
            node.start()
            poll(lambda: says(node, "certificate"), complaint="it says why not")

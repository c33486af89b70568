"""Nodes that an etcd coordinates: real processes of both, of one etcd and of three; killed, stopped, out of reach."""

import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from app.requests.request import PATIENCE_S
from app.wire.protocol import GET, NO_ERR, PUT, SYS_OVERLOAD_ERR
from tests.integration.traffic import Traffic
from tests.support.certificates import Authority
from tests.support.etcd import ABSENT, PROGRAM, Forwarder, Member, etcd
from tests.support.nodes import HOST, Node, await_count, cluster
from tests.support.polling import awaited, poll

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
    """As the last one has it."""
    by_name = {node.name: node for node in nodes}
    return awaited(lambda: by_name.get(nodes[-1].status().get("coordinator", "")), "one of them coordinates")


def leader_of(members: list[Member]) -> Member:
    """Etcd has none while its members agree on one."""
    return awaited(lambda: next((member for member in members if member.is_leader()), None), "one of them leads")


def fill(node: Node) -> dict[bytes, bytes]:
    """What was acknowledged. A put that comes while a slot changes hands may get no answer, and is put once more."""
    values = {b"key %d" % number: b"value %d" % number for number in range(100)}

    def is_put(key: bytes, value: bytes) -> bool:
        answer = node.ask(PUT, patience_s=2 * PATIENCE_S, key=key, value=value)
        return answer is not None and answer.errCode == NO_ERR

    for key, value in values.items():
        poll(partial(is_put, key, value), complaint=f"{key!r} is put")
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
    """Whether it does in STATUS, as why it is not ready, or what is lacking although it is."""
    status = node.status()
    return any(word in sentence for sentence in (*status.get("reasons", ()), *status.get("lacking", ())))


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
            leader = leader_of(members)
            leader.kill()
            leader_of([member for member in members if member is not leader])
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
        found_by_force(nodes[0])
        poll(lambda: len(one_etcd.post("/v3/kv/range", prefix).get("kvs", [])) == 2, complaint="it is written")
        await_count(nodes, 2)
        assert_kept(nodes[1], values)


def found_by_force(node: Node) -> None:
    """An operator has it go on, whatever etcd holds."""
    found = subprocess.run(
        [sys.executable, "tools/kv.py", "--server", f"{HOST}:{node.port}", "found", "--force"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert found.returncode == 0, found.stderr + found.stdout


def test_restored_from_an_old_backup_it_is_refused_with_a_line(tmp_path: Path, one_etcd: Member) -> None:
    """Of a time at which another node was a member as well."""
    with cluster(tmp_path, 3, arguments=coordinated_by(one_etcd.url)) as nodes:
        start(nodes)
        one_etcd.kill()
        backup = tmp_path / "backup"
        shutil.copytree(one_etcd.data, backup)
        one_etcd.start()
        poll(one_etcd.is_up, complaint="etcd is up")
        *left, gone = nodes
        gone.kill()
        await_count(left, 2)
        values = fill(left[0])
        one_etcd.kill()
        shutil.rmtree(one_etcd.data)
        backup.rename(one_etcd.data)
        one_etcd.start()
        poll(lambda: all(map(is_refusing, left)), complaint="nobody serves")
        poll(lambda: says(coordinator_of(left), "it was restored, or wiped"), complaint="it says why")
        assert any("the register is refused: it holds epoch" in node.log for node in left)
        found_by_force(left[0])
        await_count(left, 2)
        assert_kept(left[1], values)


def test_a_node_that_is_given_another_clusters_name(tmp_path: Path, one_etcd: Member) -> None:
    """One that is in nobody's use, and that of a cluster which was ended in order: it founds nothing there."""
    with cluster(tmp_path, 3, arguments=coordinated_by(one_etcd.url)) as nodes:
        *two, third = nodes
        start(two)
        epoch = two[0].status()["epoch"]
        for name, said in (("unused", "it is empty, though"), ("ended", "it holds cluster")):
            other = tuple(option.replace(f"/{NAME}", f"/{name}") for option in coordinated_by(one_etcd.url))
            if name == "ended":
                (tmp_path / name).mkdir()
                with cluster(tmp_path / name, 1, arguments=other) as (last,):
                    start([last])
                    assert last.stop() == 0
            third.options = other
            third.start()
            poll(lambda said=said: says(third, said), complaint="it says what it has found")
            assert "--coordination names another cluster here than there" in third.log
            assert not third.status()["is_member"]
            third.kill()
        assert {node.status()["epoch"] for node in two} == {epoch}


def test_an_endpoint_whose_name_is_not_known_is_one_that_does_not_answer(tmp_path: Path, one_etcd: Member) -> None:
    unknown = "http://no-such.invalid:2379"
    with cluster(tmp_path, 1, arguments=coordinated_by(unknown)) as (node,):
        node.start()
        poll(lambda: says(node, "its name has no address"), complaint="it says why not")
    with cluster(tmp_path, 1, arguments=coordinated_by(unknown, one_etcd.url)) as (node,):
        node.start()
        poll(node.serves, complaint="it serves")


def authenticate(member: Member, password: str) -> str:
    """A token of root's."""
    answer = member.post("/v3/auth/authenticate", {"name": "root", "password": password})
    return str(answer["token"])


def ask_for_passwords(member: Member, password: str) -> None:
    """Only root may come in from now on."""
    for path, content in (
        ("/v3/auth/user/add", {"name": "root", "password": password}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
        ("/v3/auth/enable", {}),
    ):
        assert "header" in member.post(path, content)


def reread(node: Node) -> str:
    """SIGHUP; the line that the node says then."""
    count = len(_reloads(node))
    node.send_signal(signal.SIGHUP)
    poll(lambda: len(_reloads(node)) > count, complaint="it says what came of it")
    return _reloads(node)[-1]


def _reloads(node: Node) -> list[str]:
    return [line for line in node.log.splitlines() if "node.reloaded" in line or "node.not_reloaded" in line]


@contextmanager
def answered_again(node: Node) -> Iterator[None]:
    """The register has not answered; what is done here mends that. On a busy machine it may have happened before."""
    before = node.log.count("the register answers again")
    yield
    poll(lambda: node.log.count("the register answers again") > before, complaint="the register answers again")


def test_a_user_and_a_password(tmp_path: Path, one_etcd: Member) -> None:
    ask_for_passwords(one_etcd, "secret")
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


def test_a_password_is_changed_while_nodes_run(tmp_path: Path, one_etcd: Member) -> None:
    ask_for_passwords(one_etcd, "first")
    file = tmp_path / "user"
    file.write_text("root:first\n")
    arguments = (*coordinated_by(one_etcd.url), "--etcd-user-file", str(file))
    with cluster(tmp_path, 2, arguments=arguments) as nodes:
        start(nodes)
        values = fill(nodes[0])
        changed = {"name": "root", "password": "second"}
        assert "header" in one_etcd.post("/v3/auth/user/changepw", changed, authenticate(one_etcd, "first"))
        poll(lambda: says(coordinator_of(nodes), "authentication failed"), complaint="it is noticed")
        file.write_text("second\n")
        for node in nodes:
            assert f"--etcd-user-file {file}: isn't one line USER:PASSWORD" in reread(node)
        assert_kept(nodes[1], values)
        file.write_text("root:second\n")
        for node in nodes:
            assert "etcd=user-file" in reread(node)
        poll(lambda: "the register answers again" in coordinator_of(nodes).log, complaint="it is asked again")
        victim = coordinator_of(nodes)
        (other,) = (node for node in nodes if node is not victim)
        victim.kill()
        await_count([other], 1)
        assert_kept(other, values)


def test_tls(tmp_path: Path) -> None:
    """A node that trusts etcd's certificate, and one that does not."""
    authority = Authority(tmp_path)
    certificate, key = authority.sign("etcd")
    with etcd(tmp_path, 1, ("--cert-file", str(certificate), "--key-file", str(key)), scheme="https") as (member,):
        trusted = (*coordinated_by(member.url), "--etcd-ca-file", str(authority.certificate))
        with cluster(tmp_path, 1, arguments=trusted) as (node,):
            node.start()
            poll(node.serves, complaint="it serves")
        with cluster(tmp_path, 1, arguments=coordinated_by(member.url)) as (node,):
            node.start()
            poll(lambda: says(node, "certificate"), complaint="it says why not")


def test_certificates_are_changed_while_nodes_run(tmp_path: Path) -> None:
    """Both sides show one; first the node's expires, then whoever signs them for etcd is another."""
    authority, another = Authority(tmp_path), Authority(tmp_path, "ca2")
    ours, trusted = tmp_path / "ours.pem", tmp_path / "trusted.pem"
    trusted.write_bytes(authority.certificate.read_bytes())

    def show(*signed: Path) -> None:
        """From now on the node's file holds this certificate and its key."""
        ours.write_bytes(b"".join(path.read_bytes() for path in signed))

    show(*authority.sign("node"))
    certificate, key = authority.sign("etcd")
    options = ("--cert-file", str(certificate), "--key-file", str(key))
    all_signers = tmp_path / "all.pem"  # etcd shows its own certificate to itself as well
    all_signers.write_bytes(b"".join(one.certificate.read_bytes() for one in (authority, another)))
    options += ("--client-cert-auth", "--trusted-ca-file", str(all_signers))
    with etcd(tmp_path, 1, options, scheme="https", certificate=authority.sign("test")) as (member,):
        files = ("--etcd-ca-file", str(trusted), "--etcd-cert-file", str(ours))
        with cluster(tmp_path, 1, arguments=(*coordinated_by(member.url), *files)) as (node,):
            node.start()
            poll(node.serves, complaint="it serves")
            show(*authority.sign("old", is_expired=True))
            assert "etcd=cert-file" in reread(node)
            poll(lambda: says(node, "bad certificate"), complaint="etcd refuses it")
            ours.write_text("no certificate\n")
            assert f"--etcd-cert-file {ours}: holds no certificate" in reread(node)
            with answered_again(node):
                show(*authority.sign("new"))
                assert "etcd=cert-file" in reread(node)

            another.sign("etcd")  # in the same files
            member.kill()
            member.start()
            poll(lambda: says(node, "certificate verify failed"), complaint="the node refuses etcd's")
            with answered_again(node):
                trusted.write_bytes(trusted.read_bytes() + another.certificate.read_bytes())
                assert "etcd=ca-file" in reread(node)
            poll(node.serves, complaint="it serves")

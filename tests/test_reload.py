"""SIGHUP: a node reads its servers file again."""

import json
import logging
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from app.config.coordination import read_credentials
from app.config.secret import read_secret
from app.config.servers import Server, ServersError, reread
from app.requests.request import PATIENCE_S
from app.wire.protocol import IS_ALIVE
from tests.peers.test_in_a_node import ME, PEER, Rig
from tests.support.datagrams import sockaddr
from tests.wire.datagrams import request

NEW = Server("127.0.0.3", 1003, "127.0.0.3")
NAMED = Server("kv4", 1004, "127.0.0.4")


# What the file and the servers so far come to.


@pytest.mark.parametrize(
    ("listed", "members", "file_rules", "expected"),
    [
        ([ME, PEER, NEW], [], False, [ME, PEER, NEW]),
        ([NEW, PEER, ME], [], False, [NEW, PEER, ME]),
        ([ME], [], False, [ME, PEER]),
        ([ME], [], True, [ME]),
        ([ME, NEW], [str(ME), str(PEER)], True, [ME, NEW, PEER]),
    ],
)
def test_lines_that_are_missing_are_servers_unless_the_file_rules(
    listed: list[Server], members: list[str], file_rules: bool, expected: list[Server]
) -> None:
    assert list(reread("f", ME, listed, [ME, PEER], members, file_rules=file_rules)) == expected


def test_a_file_without_this_node_is_refused() -> None:
    with pytest.raises(ServersError, match=r"^f: this node's own line, 127\.0\.0\.1:1001, is missing$"):
        reread("f", ME, [PEER, NEW], [ME, PEER], [], file_rules=True)


def test_with_those_that_are_kept_there_may_be_too_many() -> None:
    before = [ME, *(Server("10.0.0.1", 2000 + n, "10.0.0.1") for n in range(63))]
    assert len(reread("f", ME, [ME], before, [], file_rules=False)) == 64
    with pytest.raises(ServersError, match=r"^f: more than 64 servers, with 63 that are not in it any more$"):
        reread("f", ME, [ME, NEW], before, [], file_rules=False)


# In a node.


class Reloading(Rig):
    """A node of two, whose file the test writes."""

    def __init__(self, path: Path, *, alone: bool = False, **options: Any) -> None:
        self.path = path
        super().__init__(servers_file=str(path), **options, **({"servers": (ME,)} if alone else {}))

    def reload(self, *servers: Server | str) -> None:
        self.path.write_text("".join(f"{server}\n" for server in servers))
        self.node.reload()
        self.loop.turn()

    @property
    def servers(self) -> list[str]:
        """As membership has them."""
        return list(self.node.membership.core._state.config.servers)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Reloading]:
    rig = Reloading(tmp_path / "servers.txt", allow=())
    yield rig
    rig.node.stop()


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(one.message, one.__dict__["fields"]) for one in caplog.records if "reloaded" in one.message]


def test_what_is_added_is_a_server_for_all_that_goes_by_servers(
    rig: Reloading, caplog: pytest.LogCaptureFixture
) -> None:
    there = sockaddr("127.0.0.3", 1003)

    def passes() -> tuple[bool, bool]:
        before = rig.node.membership.received
        rig.node.membership.handle_datagram(b"\x08\x02", there)
        rig.sockets.datagrams.sent.clear()
        rig.sockets.datagrams.arrive(there, request(b"m" * 16, command=IS_ALIVE))
        rig.node.front.read()
        rig.loop.turn()
        is_answered = any(b"m" * 16 in one for one in rig.sockets.datagrams.sent_to(there))
        return rig.node.membership.received > before, is_answered

    assert passes() == (False, False)
    with caplog.at_level(logging.INFO):
        rig.reload(ME, PEER, NEW)
    assert rig.servers == [str(ME), str(PEER), str(NEW)]
    assert passes() == (True, True)
    assert rig.node.readiness().servers == 3
    assert rig.sockets.made[-1].connects == [("127.0.0.3", 1003)], "it is dialled"
    fields = {"servers": 3, "added": str(NEW), "removed": "", "kept": "", "secret": "none", "etcd": ""}
    assert told(caplog) == [("node.reloaded", fields)]


@pytest.mark.parametrize("file_rules", [False, True])
def test_what_is_missing_stays_unless_the_file_rules(
    tmp_path: Path, file_rules: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Reloading(tmp_path / "servers.txt", file_rules=file_rules)
    with caplog.at_level(logging.INFO):
        rig.reload(ME)
    assert rig.servers == ([str(ME)] if file_rules else [str(ME), str(PEER)])
    fields = {"servers": 1, "added": "", "removed": str(PEER), "kept": "", "secret": "none", "etcd": ""}
    if not file_rules:
        fields |= {"servers": 2, "removed": "", "kept": str(PEER)}
    assert told(caplog) == [("node.reloaded", fields)]
    rig.node.stop()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["127.0.0.1:1001", "kv2"], ":2: 'kv2': the port is missing: write host:port"),
        ([], ": no servers in it: write at least this node's own host:port"),
        (["127.0.0.3:1003"], ": this node's own line, 127.0.0.1:1001, is missing"),
        (["127.0.0.1:1001", "0.0.0.0:1"], ":2: 0.0.0.0:1 isn't one machine's address: write the server's own"),
    ],
)
def test_a_bad_file_changes_nothing_and_is_one_line(
    rig: Reloading, lines: list[str], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig.reload(*lines)
    assert rig.servers == [str(ME), str(PEER)]
    assert [(event, str(fields["cause"])) for event, fields in told(caplog)] == [
        ("node.not_reloaded", f"{rig.path}{cause}")
    ]
    rig.path.unlink()
    rig.node.reload()
    rig.loop.turn()
    assert "can't read the servers file" in str(told(caplog)[-1][1]["cause"])
    rig.reload(ME, PEER, NEW)
    assert rig.servers == [str(ME), str(PEER), str(NEW)], "it goes on"


def test_more_at_once_than_leave_half_of_them_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Reloading(tmp_path / "servers.txt", alone=True)
    assert rig.node.view is not None
    rig.reload(ME, PEER, NEW)
    assert rig.servers == [str(ME)]
    (event, fields), *_ = told(caplog)
    assert event == "node.not_reloaded"
    assert "2 servers would be needed to go on, and 1 are members and up: add 1 at a time at most" in str(
        fields["cause"]
    )
    rig.reload(ME, PEER)
    assert rig.servers == [str(ME), str(PEER)]
    assert rig.node.membership.core.lease_until > rig.loop.now_s
    assert rig.node.front._shares_turns, "it is alone no more"
    rig.node.stop()


def test_names_are_looked_up_beside_the_loop_and_a_second_signal_waits(rig: Reloading) -> None:
    rig.sockets.resolver.is_slow = True
    rig.sockets.resolver.addresses = {"127.0.0.1": ["127.0.0.1"], "127.0.0.2": ["127.0.0.2"], "kv4": ["127.0.0.4"]}
    rig.reload(ME, PEER, NAMED)
    assert rig.servers == [str(ME), str(PEER)]
    rig.reload(ME, PEER)
    rig.sockets.resolver.is_slow = False
    rig.sockets.resolver.answer()
    rig.loop.turn()
    assert rig.servers == [str(ME), str(PEER), str(NAMED)], "added, and kept when the file was read once more"
    assert rig.node.peers.address(str(NAMED)) == "127.0.0.4"
    assert rig.sockets.resolver.asked.count("kv4") == 1
    rig.reload(ME, PEER, NAMED, "no-such:1005")
    assert rig.node.peers.target("no-such:1005") is None
    assert rig.servers[-1] == "no-such:1005"


def test_a_node_that_has_stopped_reads_nothing(rig: Reloading) -> None:
    rig.node.stop()
    rig.reload(ME, PEER, NEW)
    assert rig.servers == [str(ME), str(PEER)]


# The secret.


def test_a_secret_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "secret"
    path.write_text("the old secret of all\n")
    path.chmod(0o600)
    rig = Reloading(tmp_path / "servers.txt", secret_file=read_secret(str(path)))
    shake = rig.node.links._connector.handshake
    auth = rig.node.membership._auth
    assert auth is not None
    path.write_text("the new secret of all\n")
    counts = []
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            rig.reload(ME, PEER)
            counts.append((len(shake._macs), len(auth._macs), auth._is_new_used))
        path.write_text("short\n")
        rig.reload(ME, PEER, NEW)
    assert counts == [(2, 2, False), (2, 2, True), (1, 1, True), (1, 1, True)]
    assert rig.servers == [str(ME), str(PEER)], "a bad secret changes nothing else either"
    *reloaded, (event, fields) = told(caplog)
    assert [fields["secret"] for _, fields in reloaded] == [
        "old_and_new_taken_old_used",
        "old_and_new_taken_new_used",
        "one",
        "one",
    ]
    assert (event, str(fields["cause"])[:60]) == (
        "node.not_reloaded",
        f"KV_CLUSTER_SECRET_FILE {path}: a secret has at least"[:60],
    )
    assert "secret of all" not in caplog.text
    rig.node.stop()


# Files for an etcd.


class Register:
    """An etcd that does not answer, with files whose content is told by the test."""

    requests = failures = 0

    def __init__(self) -> None:
        self.content: str | ValueError = ""
        self.gone_over_to: list[str] = []

    def start(self, taken: object) -> None: ...
    def ask(self, asked: object) -> None: ...
    def stop(self) -> None: ...

    def reread(self) -> Callable[[], str]:
        if isinstance(self.content, ValueError):
            raise self.content
        content = self.content

        def go_over() -> str:
            self.gone_over_to.append(content)
            return content

        return go_over


def test_files_for_an_etcd_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register = Register()
    rig = Reloading(tmp_path / "servers.txt", register=register)
    register.content = "user-file ca-file"
    with caplog.at_level(logging.INFO):
        rig.reload(ME, PEER)
        rig.reload(PEER)
        assert register.gone_over_to == ["user-file ca-file"], "a bad servers file changes nothing else either"
        register.content = ValueError("--etcd-ca-file ca: can't be read")
        rig.reload(ME, PEER, NEW)
    assert rig.servers == [str(ME), str(PEER)], "nor does a bad one of these"
    (event, fields), *not_reloaded = told(caplog)
    assert (event, fields["etcd"]) == ("node.reloaded", "user-file ca-file")
    assert [event for event, _ in not_reloaded] == ["node.not_reloaded"] * 2
    assert str(not_reloaded[1][1]["cause"]) == "--etcd-ca-file ca: can't be read"
    rig.node.stop()


# Files that nobody else should read.


@pytest.mark.parametrize("has_key_file", [True, False])
def test_those_that_every_user_may_read_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_key_file: bool
) -> None:
    """At the start, and whenever they are read again; a certificate only if its key is in the same file."""
    secret, user, cert, key = (tmp_path / name for name in ("secret", "user", "cert.pem", "key.pem"))
    secret.write_text("a secret of all nodes\n")
    user.write_text("kv:password\n")
    cert.touch(0o644)
    key.touch(0o644)
    opened = (secret, user, key if has_key_file else cert)

    def warned() -> list[object]:
        found = [one.__dict__["fields"] for one in caplog.records if one.message == "node.secret_exposed"]
        caplog.clear()
        return found

    for mode in (0o640, 0o644):
        for path in opened:
            path.chmod(mode)
        expected = [{"file": str(path), "mode": "0644"} for path in opened if mode == 0o644]
        rig = Reloading(
            tmp_path / "servers.txt",
            register=Register(),
            secret_file=read_secret(str(secret)),
            etcd_user=read_credentials(str(user)),
            etcd_cert_file=str(cert),
            etcd_key_file=str(key) if has_key_file else None,
        )
        assert warned() == expected
        rig.reload(ME, PEER)
        assert warned() == expected
        rig.node.stop()


# Servers that views list, whatever the file says.


def test_servers_that_are_not_in_the_file(rig: Reloading) -> None:
    names = (str(ME), str(PEER), str(NEW), "kv9:1009", "localhost:1010", "no address")
    rig.node.servers_known(names)
    peers = rig.node.peers
    assert peers.servers == names[:-1]
    assert [peers.address(name) for name in peers.names] == ["127.0.0.2", "127.0.0.3", "", "127.0.0.1"]
    assert peers.host_name("kv9:1009") == "kv9", "it is looked up"
    assert rig.node.belonging == (str(ME), str(PEER)), "the others are only listened to: no view lists them"
    assert rig.node.readiness().servers == 2
    assert [row[0] for row in json.loads(rig.node.status_json())["members"]] == [str(ME), str(PEER)]
    rig.node.servers_known((str(ME), str(NEW)))
    assert peers.names == (str(NEW),)


def test_a_node_alone_becomes_one_of_several(tmp_path: Path) -> None:
    rig = Reloading(tmp_path / "servers.txt", alone=True)
    assert rig.node.front._patience_s == inf
    rig.node.servers_known((str(ME), str(PEER)))
    assert rig.node.front._patience_s == PATIENCE_S
    rig.node.stop()

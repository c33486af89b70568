"""How an etcd is named on the command line, and who a node is to it."""

import os
from pathlib import Path

import pytest

from app.config.coordination import (
    CERTIFICATES_MAX_BYTES,
    ENDPOINTS_MAX,
    USER_MAX_BYTES,
    Coordination,
    Credentials,
    Endpoint,
    file_of_certificates,
    parse_coordination,
    read_certificates,
    read_credentials,
)


@pytest.mark.parametrize(
    ("text", "endpoints", "name"),
    [
        ("etcd:http://a:2379/kv1", (Endpoint("a", 2379, False),), "kv1"),
        ("etcd:https://A:1/K", (Endpoint("a", 1, True),), "K"),
        ("etcd:http://a:1,http://[::1]:2/x-1_2.3", (Endpoint("a", 1, False), Endpoint("::1", 2, False)), "x-1_2.3"),
        (f"etcd:http://10.0.0.1:65535/{'n' * 63}", (Endpoint("10.0.0.1", 65535, False),), "n" * 63),
    ],
)
def test_what_is_meant(text: str, endpoints: tuple[Endpoint, ...], name: str) -> None:
    found = parse_coordination(text)
    assert found == Coordination(endpoints, name)
    assert parse_coordination(str(found)) == found


def test_the_default() -> None:
    assert parse_coordination("built-in") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "built-in or an etcd"),
        ("zookeeper:http://a:1/x", "built-in or an etcd"),
        ("etcd:", "names no cluster"),
        ("etcd:http://a:2379", "names no cluster"),
        ("etcd:http://a:2379/", "isn't a name"),
        ("etcd:http://a:2379/a b", "isn't a name"),
        ("etcd:http://a:2379/.x", "isn't a name"),
        (f"etcd:http://a:2379/{'n' * 64}", "isn't a name"),
        ("etcd:a:2379/kv", "isn't an endpoint"),
        ("etcd:ftp://a:2379/kv", "isn't an endpoint"),
        ("etcd:http://a/kv", "the port is missing"),
        ("etcd:http://a:0/kv", "isn't an endpoint"),
        ("etcd:http://a:1,/kv", "isn't an endpoint"),
        ("etcd:http://a:1/b/kv", "NAME comes once, after all of them: write etcd:"),
        ("etcd:http://a:1/kv,http://b:1/kv", "NAME comes once, after all of them: write etcd:"),
        ("etcd:http://user:password@a:1/kv", "leave it to --etcd-user-file$"),
        ("etcd:http:/a:1/kv", "isn't an endpoint: write etcd:"),
        ("etcd:http://a:1, http://b:1/kv", "' http://b:1' isn't an endpoint"),
        ("etcd:http://a:1,https://a:2/kv", "anybody could read"),
        ("etcd:" + ",".join(["http://a:1"] * (ENDPOINTS_MAX + 1)) + "/kv", "more than"),
    ],
)
def test_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_coordination(text)


def test_as_many_endpoints_as_may_be() -> None:
    found = parse_coordination("etcd:" + ",".join(["http://a:1"] * ENDPOINTS_MAX) + "/kv")
    assert found is not None
    assert len(found.endpoints) == ENDPOINTS_MAX


@pytest.mark.parametrize("text", ["root:a:b", "root:a:b\n", "root:a:b\r\n"])
def test_a_user(tmp_path: Path, text: str) -> None:
    (tmp_path / "user").write_bytes(text.encode())
    found = read_credentials(str(tmp_path / "user"))
    assert found == Credentials("root", "a:b")
    assert "a:b" not in repr(found)


@pytest.mark.parametrize(
    "content", [b"", b"root", b"root:", b":x", b"a:b\nc:d\n", b"a:\xff", b"a:" + b"x" * (USER_MAX_BYTES - 1)]
)
def test_no_user(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "user").write_bytes(content)
    with pytest.raises(ValueError, match=r"isn't one line|can't be read|has more than 1024"):
        read_credentials(str(tmp_path / "user"))


def test_the_longest_user(tmp_path: Path) -> None:
    (tmp_path / "user").write_bytes(b"a:" + b"x" * (USER_MAX_BYTES - 2))
    assert read_credentials(str(tmp_path / "user")).user == "a"


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "user")
    with pytest.raises(ValueError, match=r"^can't be read: it is a pipe or the like"):
        read_credentials(str(tmp_path / "user"), again=True)


def test_certificates(tmp_path: Path) -> None:
    """What is in them is another's to judge."""
    path = tmp_path / "certificates"
    path.write_bytes(b"\xff" * CERTIFICATES_MAX_BYTES)
    assert read_certificates(file_of_certificates(str(path))) == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="has more than 1048576 bytes"):
        file_of_certificates(str(path))
    with pytest.raises(ValueError, match=r"^can't be read: No such file"):
        read_certificates(str(tmp_path / "none"))

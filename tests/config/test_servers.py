"""The servers file: what is accepted, what is refused and on which line, and how a node finds itself."""

import re
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import servers
from app.config.servers import (
    START_LOOKUPS_S,
    Entry,
    Server,
    ServersError,
    find_me,
    parse,
    resolve,
    split_host_port,
    unresolved,
)

GIVEN_LOOKUPS = {
    "a": ["10.0.0.1"],
    "b": ["10.0.0.2"],
    "also-a": ["10.0.0.1", "10.0.0.9"],
    "six": ["fd00::6"],
    "a-and-b": ["10.0.0.1", "10.0.0.2"],
}
NAME_253 = ".".join(["x" * 63] * 3 + ["x" * 61])
assert len(NAME_253) == 253


def lookup(host: str) -> list[str]:
    if servers.is_address(host):
        return [str(ip_address(host))]
    if host not in GIVEN_LOOKUPS:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return GIVEN_LOOKUPS[host]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1", ("a", 1)),
        ("127.0.0.1:3331", ("127.0.0.1", 3331)),
        ("kv-1.example.org:65535", ("kv-1.example.org", 65535)),
        ("KV_1.Example.ORG:03331", ("kv_1.example.org", 3331)),
        ("1and1.com:80", ("1and1.com", 80)),
        ("[::1]:3331", ("::1", 3331)),
        ("[FD00::A]:1", ("fd00::a", 1)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("x" * 63 + ":1", ("x" * 63, 1)),
        (NAME_253 + ":1", (NAME_253, 1)),
    ],
)
def test_an_address_is_split(text: str, expected: tuple[str, int]) -> None:
    assert split_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "port is missing"),
        ("a", "port is missing"),
        (":1", "host is missing"),
        ("a:", "isn't a port"),
        ("a:x", "isn't a port"),
        ("a:-1", "isn't a port"),
        ("a:+1", "isn't a port"),
        ("a:1_0", "isn't a port"),
        ("a:\u0663", "isn't a port"),  # an Arabic digit three, which int() would take
        ("a:0", "'0' isn't a port: a number from 1 to 65535"),
        ("a:65536", "'65536' isn't a port"),
        ("a:100000", "isn't a port"),
        ("::1:3331", "in brackets"),
        ("[::1]", "[address]:port"),
        ("[::1:3331", "[address]:port"),
        ("[::1]3331", "[address]:port"),
        ("[]:3331", "isn't an IPv6 address"),
        ("[127.0.0.1]:3331", "isn't an IPv6 address"),
        ("[::g]:3331", "isn't an IPv6 address"),
        ("256.0.0.1:1", "isn't an IPv4 address"),
        ("127.1:1", "isn't an IPv4 address"),
        ("2130706433:1", "isn't an IPv4 address"),
        ("-a:1", "isn't a host name"),
        ("a-:1", "isn't a host name"),
        ("a..b:1", "isn't a host name"),
        ("a/b:1", "isn't a host name"),
        ("b\u00fccher:1", "isn't a host name"),
        ("x" * 64 + ":1", "isn't a host name"),
        (NAME_253 + "x:1", "isn't a host name"),
        ("[fe80::1%]:1", "isn't an IPv6 address"),
        ("[fe80::1%e h]:1", "isn't an IPv6 address"),
        ("127.0.0.1%lo:1", "isn't a host name"),
    ],
)
def test_a_malformed_address_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        split_host_port(text)
    assert complaint in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        host, port = split_host_port(text)
    except ValueError:
        return
    assert split_host_port(servers.join_host_port(host, port)) == (host, port)


@pytest.mark.parametrize(
    "data",
    [
        b"a:1\nb:2\n",
        b"a:1\nb:2",
        b"\xef\xbb\xbfa:1\r\nb:2\r\n",
        b"  a:1\t# the first\n\t b:2#the second\n",
    ],
)
def test_the_same_two_entries(data: bytes) -> None:
    assert parse(data, "f") == [Entry("a", 1, 1), Entry("b", 2, 2)]


def test_comments_and_blank_lines_are_skipped_but_counted() -> None:
    data = "# caf\u00e9\n\n   \n\x0c\na:1\n#b:2\n[::1]:3\n".encode()
    assert parse(data, "f") == [Entry("a", 1, 5), Entry("::1", 3, 7)]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "f: no servers"),
        (b"# only\n\n# comments\n", "f: no servers"),
        (b"\xef\xbb\xbf", "f: no servers"),
        (b"a:1\nb\n", "f:2: 'b': the port is missing"),
        (b"# x\r\n\r\na:0\r\n", "f:3: 'a:0': '0' isn't a port: a number from 1 to 65535"),
        (b"a:1 b:2\n", "f:1: 'a:1 b:2': one host:port a line"),
        (b"a : 1\n", "f:1: 'a : 1': one host:port a line"),
        (b"a:1\n\nA:1\n", "f:3: A:1 is already on line 1"),
        (b"a:1\n\xff:2\n", "f:2: not UTF-8 text (byte 4)"),
        ("a:1\n".encode("utf-16"), "f:1: not UTF-8 text (byte 0)"),
        (b"x" * 500 + b"\n", "f:1: 'xxx"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(data: bytes, complaint: str) -> None:
    with pytest.raises(ServersError) as caught:
        parse(data, "f")
    message = str(caught.value)
    assert message.startswith(complaint)
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize(("count", "accepted"), [(63, True), (64, True), (65, False)])
def test_the_number_of_servers_is_limited(count: int, accepted: bool) -> None:
    data = "".join(f"a:{port}\n" for port in range(1, count + 1)).encode()
    if accepted:
        assert len(parse(data, "f")) == count
    else:
        with pytest.raises(ServersError, match=r"^f:65: more than 64 servers: a cluster takes no more$"):
            parse(data, "f")


@pytest.mark.parametrize(("length", "accepted"), [(79, True), (80, True), (81, False)])
def test_the_length_of_a_servers_name_is_limited(length: int, accepted: bool) -> None:
    """Members are named by it in every view."""
    host = "x" * 50 + "." + "y" * (length - len(":3331") - 51)
    data = f"a:1\n{host}:3331\n".encode()
    if accepted:
        assert len(str(parse(data, "f")[1])) == length
    else:
        with pytest.raises(ServersError, match=r"^f:2: 'xxx.*' is too long: write a name or address of at most 80 "):
            parse(data, "f")


def test_the_length_counts_the_brackets_of_an_ipv6_address() -> None:
    scope = "s" * (80 - len("[fe80::1%]:3331"))
    assert len(parse(f"[fe80::1%{scope}]:3331\n".encode(), "f")) == 1
    with pytest.raises(ServersError, match="is too long"):
        parse(f"[fe80::1%{scope}s]:3331\n".encode(), "f")


@given(st.binary(max_size=200))
def test_any_file_is_parsed_or_refused(data: bytes) -> None:
    try:
        entries = parse(data, "f")
    except ServersError as error:
        message = str(error)
    else:
        message = ""
        assert entries
    assert "\n" not in message


def test_names_are_resolved_in_the_files_order() -> None:
    entries = parse(b"b:1\nA:1\n[fd00::1]:1\nsix:1\n10.0.0.3:1\n", "f")
    assert resolve(entries, "f", lookup) == (
        Server("b", 1, "10.0.0.2"),
        Server("a", 1, "10.0.0.1"),
        Server("fd00::1", 1, "fd00::1"),
        Server("six", 1, "fd00::6"),
        Server("10.0.0.3", 1, "10.0.0.3"),
    )


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"[fd00::1]:1\n[fd00:0::1]:1\n", "f:2: [fd00:0::1]:1 is the same server as line 1: remove one of the two"),
        (b"0.0.0.0:1\n", "f:1: 0.0.0.0:1 isn't one machine's address"),
        (b"[::]:1\n", "f:1: [::]:1 isn't one machine's address"),
        (b"224.0.0.1:1\n", "f:1: 224.0.0.1:1 isn't one machine's address"),
        (b"255.255.255.255:1\n", "f:1: 255.255.255.255:1 isn't one machine's address"),
        (b"[ff02::1]:1\n", "f:1: [ff02::1]:1 isn't one machine's address"),
    ],
)
def test_an_address_that_cannot_be_a_servers_is_refused_with_its_line(data: bytes, complaint: str) -> None:
    with pytest.raises(ServersError) as caught:
        resolve(parse(data, "f"), "f", lookup)
    assert str(caught.value).startswith(complaint)


def test_a_name_that_does_not_resolve_is_that_of_a_server_without_an_address_yet() -> None:
    assert resolve(parse(b"a:1\n\nno-such:1\nb:1\n", "f"), "f", lookup) == (
        Server("a", 1, "10.0.0.1"),
        Server("no-such", 1, ""),
        Server("b", 1, "10.0.0.2"),
    )


def test_names_may_have_one_address_for_a_while() -> None:
    """Where addresses are used again, what a resolver remembers of one of the two is out of date."""
    assert [server.address for server in resolve(parse(b"a:1\nalso-a:1\n", "f"), "f", lookup)] == ["10.0.0.1"] * 2


@pytest.mark.parametrize(("each_s", "found"), [(START_LOOKUPS_S / 2 - 0.01, 3), (START_LOOKUPS_S / 2, 2)])
def test_the_start_does_not_wait_for_ever_for_a_resolver(each_s: float, found: int) -> None:
    now_s = [100.0]

    def slow(host: str) -> list[str]:
        if not servers.is_address(host):
            now_s[0] += each_s
        return lookup(host)

    entries = parse(b"a:1\nb:1\nalso-a:2\n10.0.0.3:1\n", "f")
    resolved = resolve(entries, "f", slow, now=lambda: now_s[0])
    assert [bool(server.address) for server in resolved] == [True, True, found == 3, True], "what is no name, always"


def test_the_highest_usable_address_is_accepted() -> None:
    assert resolve(parse(b"223.255.255.255:1\n", "f"), "f", lookup)[0].address == "223.255.255.255"


def test_one_host_may_hold_several_nodes() -> None:
    assert len(resolve(parse(b"a:1\na:2\nalso-a:3\n", "f"), "f", lookup)) == 3


def test_a_host_with_both_kinds_of_address_gives_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("fd00::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("10.0.0.2", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("10.0.0.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert servers.lookup_host("both") == ["10.0.0.2", "10.0.0.1", "fd00::1"]


def test_localhost_is_resolved_by_the_system() -> None:
    assert servers.lookup_host("localhost")[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.77.0.1", True),
        ("192.0.2.1", False),  # RFC 5737: documentation, on no machine
        ("2001:db8::1", False),  # RFC 3849: likewise
    ],
)
def test_an_address_is_local_when_it_can_be_bound(address: str, local: bool) -> None:
    assert servers.is_local(address) is local


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_the_ipv6_loopback_is_local() -> None:
    assert servers.is_local("::1")


A1 = Server("a", 1, "10.0.0.1")
A2 = Server("a", 2, "10.0.0.1")
B1 = Server("b", 1, "10.0.0.2")
HOME1 = Server("localhost", 1, "127.0.0.1")
SIX1 = Server("fd00::6", 1, "fd00::6")
ABSENT1 = Server("absent", 1, "")
ALL = (A1, A2, B1, SIX1, ABSENT1)


@pytest.mark.parametrize(
    ("port", "local", "options", "expected"),
    [
        (1, {"10.0.0.1"}, {}, A1),
        (2, {"10.0.0.1"}, {}, A2),
        (1, {"10.0.0.2"}, {}, B1),
        (1, {"fd00::6"}, {}, SIX1),
        (1, {"10.0.0.1", "10.0.0.2"}, {"bind": "10.0.0.2"}, B1),
        (1, {"10.0.0.1"}, {"bind": "10.0.0.7"}, A1),
        (1, set(), {"advertise": ("b", 1)}, B1),
        (1, set(), {"advertise": ("10.0.0.2", 1)}, B1),
        (9, set(), {"advertise": ("a", 2)}, A2),  # a published port: another one inside the container
        (1, {"10.0.0.1"}, {"advertise": ("fd00::6", 1)}, SIX1),
        (1, set(), {"advertise": ("also-a", 2)}, A2),  # another name for it
        (1, set(), {"advertise": ("absent", 1)}, ABSENT1),  # its name has no address yet
    ],
)
def test_a_node_finds_itself(port: int, local: set[str], options: dict[str, object], expected: Server) -> None:
    found = find_me(ALL, port, name="f", local=local.__contains__, lookup=lookup, **options)  # type: ignore[arg-type]
    assert found == expected


@pytest.mark.parametrize(
    ("port", "local", "options", "complaint"),
    [
        (3, {"10.0.0.1"}, {}, "no server in f has port 3 (it has 1, 2): add this node or change PORT"),
        (1, set(), {}, "this node isn't in f: absent:1 can't be resolved, and no other address with port 1 is this"),
        (2, {"10.0.0.2"}, {}, "this node isn't in f: no address of this machine among a:2 ("),
        (1, {"10.0.0.1", "10.0.0.2"}, {}, "a:1 and b:1 in f are all this machine"),
        (1, {"10.0.0.1", "10.0.0.2"}, {"bind": "10.0.0.3"}, "a:1 and b:1 in f are all this machine"),
        (1, {"10.0.0.1"}, {"advertise": ("c", 1)}, "c:1 (--advertise) isn't in f"),
        (1, {"10.0.0.1"}, {"advertise": ("b", 2)}, "b:2 (--advertise) isn't in f"),
        (1, {"10.0.0.1"}, {"advertise": ("b", 3)}, "b:3 (--advertise) isn't in f"),
        (1, {"10.0.0.1"}, {"advertise": ("a-and-b", 1)}, "a-and-b:1 (--advertise) is more than one line of f"),
    ],
)
def test_a_node_that_cannot_find_itself_says_why(
    port: int, local: set[str], options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ServersError) as caught:
        find_me(ALL, port, name="f", local=local.__contains__, lookup=lookup, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(("count", "listed"), [(8, "1, 2, 3, 4, 5, 6, 7, 8"), (9, "1, 2, 3, 4, 5, 6, 7, 8, ...")])
def test_a_long_list_of_ports_is_cut_short_in_messages(count: int, listed: str) -> None:
    many = tuple(Server("a", port, "10.0.0.1") for port in range(1, count + 1))
    with pytest.raises(ServersError, match=re.escape(f"(it has {listed})")):
        find_me(many, 1000, name="f")


@pytest.mark.parametrize(("count", "listed"), [(4, "a0:1, a1:1, a2:1, a3:1"), (5, "a0:1, a1:1, a2:1, a3:1, ...")])
def test_a_long_list_of_servers_is_cut_short_in_messages(count: int, listed: str) -> None:
    many = tuple(Server(f"a{n}", 1, f"10.0.0.{n}") for n in range(count))
    with pytest.raises(ServersError, match=re.escape(f"no address of this machine among {listed} (add it")):
        find_me(many, 1, name="f", local=lambda address: False)
    with pytest.raises(ServersError, match=r"^a0:1 and a1:1 and a2:1 and a3:1 in f are all this machine"):
        find_me(many, 1, name="f", local=lambda address: True)


@pytest.mark.parametrize("length", [79, 80, 81, 200])
def test_a_long_entry_is_quoted_in_part(length: int) -> None:
    entry = "x" * length
    with pytest.raises(ServersError) as caught:
        parse(entry.encode(), "f")
    shown = entry if length <= 80 else "x" * 80 + "..."
    assert str(caught.value) == f"f:1: '{shown}': the port is missing: write host:port"


def test_servers_are_named_as_the_file_names_them() -> None:
    assert [str(server) for server in (A1, HOME1, SIX1)] == ["a:1", "localhost:1", "[fd00::6]:1"]
    assert [server.is_named for server in (A1, HOME1, SIX1)] == [True, False, False]


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    path.write_bytes(b"127.0.0.1:3331 # me\n")
    assert servers.load(str(path)) == (Server("127.0.0.1", 3331, "127.0.0.1"),)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServersError, match=r"can't read the servers file '.*/none': No such file"):
        servers.load(str(tmp_path / "none"))
    with pytest.raises(ServersError, match=r"can't read the servers file .*: Is a directory"):
        servers.load(str(tmp_path))
    with pytest.raises(ServersError, match=r"can't read the servers file .*: embedded null byte"):
        servers.load("a\0b")


@pytest.mark.parametrize(("extra", "accepted"), [(-1, True), (0, True), (1, False)])
def test_the_files_size_is_limited(tmp_path: Path, extra: int, accepted: bool) -> None:
    path = tmp_path / "servers.txt"
    path.write_bytes(b"127.0.0.1:1\n#".ljust(servers.FILE_MAX_BYTES + extra, b"x"))
    if accepted:
        assert len(servers.load(str(path))) == 1
    else:
        with pytest.raises(ServersError, match="is it the right file"):
            servers.load(str(path))


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ServersError, match="is it the right file"):
        servers.load("/dev/zero")


def test_the_repositorys_own_file_names_one_node_of_this_machine() -> None:
    path = Path(__file__).parents[2] / "servers.txt"
    loaded = servers.load(str(path))
    assert find_me(loaded, 3331, name="servers.txt") == Server("127.0.0.1", 3331, "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("10.0.0.1:1", "10.0.0.1"),
        ("[fe80::1%eth0]:1", "fe80::1%eth0"),
        ("localhost:1", "127.0.0.1"),
        ("kv2.example:1", ""),
        ("0.0.0.0:1", ""),
        ("[::]:1", ""),
        ("224.0.0.1:1", ""),
        ("255.255.255.255:1", ""),
        ("[ff02::1%eth0]:1", ""),
    ],
)
def test_a_server_by_its_name_alone(name: str, address: str) -> None:
    found = unresolved(name)
    assert found is not None
    assert (str(found), found.address) == (name, address)


def test_what_is_no_name_is_no_server() -> None:
    assert unresolved("kv2") is None

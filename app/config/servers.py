"""The servers file: which nodes there are, and which of them this one is.

The problem: every node is given the same file, so each must find its own line in it, and a mistake in the
file must be told before the node serves anything, with the line to mend.

The approach: the file is parsed without looking anything up (`parse`), host names are then looked up (`resolve`), and a
node knows its own line by its port and by the kernel's word that the line's address is one of this machine's: an
address can be bound here exactly when it is local. Listing the machine's interfaces was rejected: the standard library
can't do it on its own, and such a list misses what binding knows (all of 127.0.0.0/8, routes of type local in
containers).

Between nodes a server's name is its line as written (`str(server)`), never its address: a name may well
resolve to different addresses on different machines (Debian gives a machine's own name as 127.0.1.1), and to another
one with each start of a container. So what a name resolves to at the start of this node is only where it is looked for
first; app/peers/lookups.py looks again. A name without an address belongs to a server that is not there yet.
"""

import re
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from app.config import files
from app.config.numbers import PORT_MAX, number
from app.wire.protocol import ADDRESS_MAX_BYTES, SERVERS_MAX

# Room for the most servers with the longest names, each with comments of many lines; a file given by mistake (a disk
# image, /dev/zero) is told apart without reading it whole.
FILE_MAX_BYTES: Final = 256 * 1024
_port: Final = number(int, 1, PORT_MAX, what="a port: a number")
_HOST_MAX_CHARS: Final = 253  # of a host name (RFC 1035, 2.3.4)
# How long a start waits for names that do not resolve at once: a resolver whose servers are silent takes 5 s or more
# for each. What has no address by then is looked up while the node runs.
START_LOOKUPS_S: Final = 5.0
assert 10 * SERVERS_MAX * (ADDRESS_MAX_BYTES + len("\r\n")) <= FILE_MAX_BYTES

# What a host name looks like: labels of at most 63 characters (RFC 1035, and the _ that people use); what can only be
# an IPv4 address; and what may follow the % of an IPv6 one, the name of an interface.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_DOTTED_NUMBERS: Final = re.compile(r"[0-9.]+", re.ASCII)
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_QUOTED_MAX_CHARS: Final = 80  # of a faulty entry, in a message


class ServersError(Exception):
    """What is wrong with the servers file or this node's place in it: one line for the operator."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file (0: of none), not yet looked up; `host` in lower case and without brackets."""

    host: str
    port: int
    line: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the cluster.

    `host` is as the file writes it (in lower case) and names the server between nodes; `address` is what it
    resolved to on this machine at start: numeric, IPv4 or IPv6, what to connect to; empty: nothing.
    """

    host: str
    port: int
    address: str

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)

    @property
    def is_named(self) -> bool:
        """Whether `host` is a name whose address may change."""
        return self.host != "localhost" and not is_address(self.host)


def join_host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """The inverse of `join_host_port`: host in lower case and without brackets, port in 1..65535.

    Raises ValueError with a phrase that says what is wrong and how to write it; nothing is looked up.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError("an IPv6 entry is written [address]:port")
        if not is_address(host) or ":" not in host:
            raise ValueError(f"{_quoted(host)} isn't an IPv6 address")
        port_text = rest[1:]
    else:
        host, colon, port_text = text.rpartition(":")
        if not colon:
            raise ValueError("the port is missing: write host:port")
        if ":" in host:
            raise ValueError("an IPv6 address goes in brackets: [address]:port")
        if not host:
            raise ValueError("the host is missing: write host:port")
        if _DOTTED_NUMBERS.fullmatch(host):
            if not is_address(host):
                raise ValueError(f"{_quoted(host)} isn't an IPv4 address")
        elif not is_name(host):
            raise ValueError(f"{_quoted(host)} isn't a host name or address")
    return host.lower(), parse_port(port_text)


def parse_seeds(text: str) -> tuple[tuple[str, int], ...]:
    """Servers to ask, separated by commas. Raises ValueError as `split_host_port`."""
    found = tuple(split_host_port(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("is empty: write host:port,...")
    return found


def parse_port(text: str) -> int:
    """The port that `text` writes, 1..65535. Raises ValueError with a phrase that says what is wrong."""
    try:
        return _port(text)
    except ValueError as error:
        raise ValueError(f"{_quoted(text)} {error}") from None


def is_name(text: str) -> bool:
    """Whether `text` looks like a host name and not like an address; nothing is looked up."""
    return len(text) <= _HOST_MAX_CHARS and bool(_NAME.fullmatch(text)) and not _DOTTED_NUMBERS.fullmatch(text)


def is_address(text: str) -> bool:
    """Whether `text` is a numeric IPv4 or IPv6 address (with a scope, if any); nothing is looked up."""
    bare, percent, scope = text.partition("%")
    if percent and (":" not in bare or not _SCOPE.fullmatch(scope)):
        return False
    try:
        # Stricter than the resolver, which takes 127.1 for 127.0.0.1.
        socket.inet_pton(family_of(bare), bare)
    except (OSError, ValueError):  # ValueError: a NUL, or not ASCII
        return False
    return True


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET6 or AF_INET, of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def load(
    path: str,
    lookup: Callable[[str], list[str]] | None = None,
    read: Callable[[str], bytes] | None = None,
) -> tuple[Server, ...]:
    """The servers that the file at `path` names, in its order, host names looked up.

    Raises ServersError for whatever is wrong with the file, with its name and, where there is one, the line.
    """
    return resolve(parse((read or read_file)(path), path), path, lookup or lookup_host)


def reread(
    path: str,
    me: Server,
    listed: Sequence[Server],
    before: Sequence[Server],
    members: Collection[str],
    *,
    file_rules: bool,
) -> tuple[Server, ...]:
    """The servers that there are from now on. `listed`: what the file at `path` names now; `before`: those there were.

    The file's, in its order, then those of before whose lines are missing: all of them, or, if the file rules, those
    that are `members` (by name) and so are still needed. Raises ServersError when this node's own line is missing, or
    there are too many.
    """
    names = {str(server) for server in listed}
    if str(me) not in names:
        raise ServersError(f"{path}: this node's own line, {me}, is missing")
    kept = [one for one in before if str(one) not in names and (not file_rules or str(one) in members)]
    if len(listed) + len(kept) > SERVERS_MAX:
        raise ServersError(f"{path}: more than {SERVERS_MAX} servers, with {len(kept)} that are not in it any more")
    return (*listed, *kept)


def unresolved(name: str) -> Server | None:
    """The server of this name (`host:port`), which a view lists and the file does not. A host name has no address yet,
    one of no machine never has. None: it is no such name, and nobody can be there."""
    try:
        host, port = split_host_port(name)
    except ValueError:
        return None
    if is_address(host):
        return Server(host, port, "" if is_unusable(host) else host)
    return Server(host, port, "127.0.0.1" if host == "localhost" else "")


def read_file(path: str, *, again: bool = False) -> bytes:
    """What is in the servers file; `again`: see files.py. Raises ServersError."""
    try:
        data = files.read(path, FILE_MAX_BYTES + 1, again=again)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ServersError(f"can't read the servers file {path!r}: {reason}") from None
    if len(data) > FILE_MAX_BYTES:
        raise ServersError(f"the servers file {path!r} is over {FILE_MAX_BYTES} bytes: is it the right file?")
    return data


def parse(data: bytes, name: str) -> list[Entry]:
    """The file's entries, in its order; `name` is what messages call the file.

    One `host:port` or `[ipv6]:port` a line; `#` starts a comment, also after an entry; blank lines, a
    byte-order mark and CRLF are let pass. Raises ServersError.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ServersError(f"{name}:{line}: not UTF-8 text (byte {error.start}): save the file as UTF-8") from None
    entries: list[Entry] = []
    line_of: dict[tuple[str, int], int] = {}
    # Not splitlines(), which also splits at separators that no editor counts as lines.
    for line, raw in enumerate(text.split("\n"), 1):
        entry = raw.partition("#")[0].strip()
        if not entry:
            continue
        if len(entry.split()) > 1:
            raise ServersError(f"{name}:{line}: {_quoted(entry)}: one host:port a line")
        try:
            host, port = split_host_port(entry)
        except ValueError as error:
            raise ServersError(f"{name}:{line}: {_quoted(entry)}: {error}") from None
        first = line_of.setdefault((host, port), line)
        if first != line:
            raise ServersError(f"{name}:{line}: {entry} is already on line {first}: remove one of the two")
        if len(join_host_port(host, port)) > ADDRESS_MAX_BYTES:
            raise ServersError(
                f"{name}:{line}: {_quoted(entry)} is too long: write a name or address of at most"
                f" {ADDRESS_MAX_BYTES} bytes, its port included"
            )
        if len(entries) == SERVERS_MAX:
            raise ServersError(f"{name}:{line}: more than {SERVERS_MAX} servers: a cluster takes no more")
        entries.append(Entry(host, port, line))
    if not entries:
        raise ServersError(f"{name}: no servers in it: write at least this node's own host:port")
    return entries


def resolve(
    entries: list[Entry],
    name: str,
    lookup: Callable[[str], list[str]],
    now: Callable[[], float] = time.monotonic,
) -> tuple[Server, ...]:
    """Each entry with its address, the first that `lookup` gives for its host; empty for a name that does not resolve,
    and for what is left when looking up has taken START_LOOKUPS_S by the clock `now()`.

    Raises ServersError when an address can't be a server's own, and when two lines write one address and port in two
    ways. (Two names may have the same one for a while: where addresses are used again, one of the two is out of date.)
    """
    servers = []
    line_of: dict[tuple[str, int], int] = {}
    until_s = now() + START_LOOKUPS_S
    for entry in entries:
        address = ""
        if is_address(entry.host) or now() < until_s:
            with suppress(OSError):
                address = lookup(entry.host)[0]
        if address and is_unusable(address):
            where = f"{name}:{entry.line}" if entry.line else name
            raise ServersError(f"{where}: {entry} isn't one machine's address: write the server's own")
        if is_address(entry.host):
            first = line_of.setdefault((address, entry.port), entry.line)
            if first != entry.line:
                raise ServersError(
                    f"{name}:{entry.line}: {entry} is the same server as line {first}: remove one of the two"
                )
        servers.append(Server(entry.host, entry.port, address))
    return tuple(servers)


def lookup_host(host: str) -> list[str]:
    """The host's numeric addresses, IPv4 first, else in the resolver's order; never empty. Raises OSError.

    IPv4 first, since the resolver's own order depends on the machine that asks, and nodes should agree.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except UnicodeError:  # a label the IDNA codec refuses
        raise OSError("not a host name") from None
    return [str(info[4][0]) for info in sorted(found, key=lambda info: info[0] != socket.AF_INET)]


def is_unusable(address: str) -> bool:
    """Wildcard, multicast and broadcast addresses: they can be bound everywhere and name no machine."""
    packed = socket.inet_pton(family_of(address), address.partition("%")[0])
    return not any(packed) or packed[0] >= (224 if len(packed) == 4 else 0xFF)


def is_local(address: str) -> bool:
    """Whether a numeric address is one of this machine's: whether a socket can be bound to it."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # EADDRNOTAVAIL as a rule; EAFNOSUPPORT and the like: not usable here either way
            return False
        return True


def find_me(
    servers: tuple[Server, ...],
    port: int,
    *,
    name: str,
    bind: str | None = None,
    advertise: tuple[str, int] | None = None,
    local: Callable[[str], bool] = is_local,
    lookup: Callable[[str], list[str]] | None = None,
) -> Server:
    """This node's own line in the file that messages call `name`.

    `advertise` (host, port) settles it: the line that it equals, as written or by address. Otherwise it is
    the line with this node's port and an address of this machine; where several fit (one machine by two
    addresses), the one that equals the numeric address `bind`. Raises ServersError when there is none, or
    more than one.
    """
    if advertise is not None:
        return _find_advertised(servers, *advertise, name, lookup or lookup_host)
    same_port = [server for server in servers if server.port == port]
    if not same_port:
        ports = sorted({server.port for server in servers})
        listed = ", ".join(map(str, ports[:8])) + (", ..." if len(ports) > 8 else "")
        raise ServersError(f"no server in {name} has port {port} (it has {listed}): add this node or change PORT")
    mine = [server for server in same_port if server.address and local(server.address)]
    if not mine:
        unresolved = [server for server in same_port if not server.address]
        if unresolved:
            raise ServersError(
                f"this node isn't in {name}: {_listed(unresolved)} can't be resolved, and no other address with port"
                f" {port} is this machine's (check DNS or /etc/hosts, or name its line by --advertise)"
            )
        raise ServersError(
            f"this node isn't in {name}: no address of this machine among {_listed(same_port)}"
            " (add it, or name its line by --advertise)"
        )
    if len(mine) > 1:
        bound = [server for server in mine if server.address == bind]
        if len(bound) != 1:
            listed = " and ".join(map(str, mine[:4]))
            raise ServersError(f"{listed} in {name} are all this machine: say which is this node by --advertise")
        mine = bound
    return mine[0]


def _find_advertised(
    servers: tuple[Server, ...], host: str, port: int, name: str, lookup: Callable[[str], list[str]]
) -> Server:
    """The line with this port that is written so; else the one with the address, or one that the name resolves to."""
    same_port = [server for server in servers if server.port == port]
    for server in same_port:
        if server.host == host:
            return server
    addresses = [host]
    if same_port and not is_address(host):
        with suppress(OSError):
            addresses = lookup(host)
    found = [server for server in same_port if server.address in addresses]
    if len(found) != 1:
        what = "is more than one line of" if found else "isn't in"
        raise ServersError(f"{join_host_port(host, port)} (--advertise) {what} {name}: write it as it is there")
    return found[0]


def _listed(servers: list[Server]) -> str:
    return ", ".join(map(str, servers[:4])) + (", ..." if len(servers) > 4 else "")


def _quoted(text: str) -> str:
    """`text` as a one-line literal of bounded length, for a message."""
    return repr(text if len(text) <= _QUOTED_MAX_CHARS else text[:_QUOTED_MAX_CHARS] + "...")

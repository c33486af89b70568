"""What a node is told when it is started: the command line, the environment, and the servers file.

The approach is gunicorn's: each setting is declared once, as a field of `Options` with its option, its
parser, its default as one would type it, and its help text; the command line, the environment variable
(`--max-memory` is also KV_MAX_MEMORY) and the manual that --help prints all follow from that. Adding a
setting is adding a field. What is wrong raises `UsageError` with one line that says what to change; nothing
here prints or exits, but for --help.

The command line has precedence over the environment, that over the default. An empty variable counts as
unset, since compose files and unit files can hardly leave one out. Unknown KV_ variables are no fault:
orchestrators make their own for a service that is named kv (KV_PORT=tcp://...), which is also why PORT and
SERVERS_FILE have none. But one that is nearly a setting's was meant for it: `misspelt`.

It is long since each setting has all of it here, one after the other: bounds and their reasons, what it takes, what the
manual says of it, and what it does not go together with.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NoReturn

from app.config import allowlist, servers
from app.config.allowlist import Network
from app.config.cgroup import memory_limit
from app.config.coordination import (
    Coordination,
    Credentials,
    file_of_certificates,
    parse_coordination,
    read_credentials,
)
from app.config.numbers import PORT_MAX, number
from app.config.secret import SECRET_MIN_BYTES, SecretFile, parse_secret, read_secret
from app.config.servers import Server, ServersError, parse_seeds, split_host_port
from app.observe import logs
from app.version import VERSION
from app.wire.protocol import CLIENT_TIMEOUTS_MS, COPIES_MAX, DATAGRAM_MAX_BYTES

_MIB: Final = 1 << 20
# Of the whole process. The interpreter with everything imported takes 29 MiB and remembered replies their
# share; with less than this there would be no store left to speak of.
MEMORY_MIN_BYTES: Final = 48 * _MIB
# With --http: its server and the metrics library are 9 MiB more (docs/monitoring.md).
MEMORY_MIN_HTTP_BYTES: Final = 60 * _MIB

# How long after a client's first try its last one leaves (s).
_LAST_TRY_S: Final = sum(CLIENT_TIMEOUTS_MS[:-1]) / 1000
# A reply must be remembered until the last try has arrived, or that would take effect once more: 1.5 s are for the way
# and for queues.
REPLY_TTL_MIN_S: Final = 6.0
# Replies are never forgotten early, so a longer life means fewer writes a second before clients are told to
# wait.
REPLY_TTL_MAX_S: Final = 60.0
assert _LAST_TRY_S < REPLY_TTL_MIN_S

# With less than this a second, addresses that are forged could use up what honest ones get: app/front/rate.py.
ANSWER_RATE_MIN_BYTES: Final = 64 << 10

# Past these a number was not meant so: nobody waits an hour for a node to stop, or a month for one to come back, no
# request takes a minute (clients give up after 7 s), and a node has not more names than a cluster has nodes.
LEAVE_TIMEOUT_MAX_S: Final = 3600.0
FORGET_AFTER_MAX_S: Final = 31 * 86_400.0
SLOW_MAX_MS: Final = 60_000
_HTTP_HOSTS_MAX: Final = 64

# Requests that may wait at once. The most could hold 1 GiB; by default it is 16 MiB.
IN_FLIGHT_MAX: Final = 65536
_IN_FLIGHT_DEFAULT: Final = 1024


def _in_flight_bytes(count: int) -> int:
    """What that many requests in flight hold at most: a datagram each."""
    return count * DATAGRAM_MAX_BYTES


assert _in_flight_bytes(_IN_FLIGHT_DEFAULT) <= MEMORY_MIN_BYTES // 2

# What may follow a size's number, in lower case; and a size: its number, decimals, unit.
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))? ?([a-z]*)", re.ASCII | re.IGNORECASE)


class UsageError(Exception):
    """The node can't start as it was told to: one line that says what is wrong and how to mend it."""


# Parsers: text to value; ValueError with a phrase that follows "--option 'text': ".


def parse_size(text: str) -> int:
    """Bytes of `64MB` (powers of 1000), `1GiB` or `1G` (powers of 1024) or a number; case doesn't matter."""
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[3].lower()) if match else None
    if not match or unit is None:
        raise ValueError("isn't a size: write 64MB, 1.5GiB or a number of bytes")
    decimals = match[2] or ""
    return int(match[1] + decimals) * unit // int(10 ** len(decimals))


def show_size(size_bytes: int) -> str:
    """A size as one would type it: in the largest binary unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _UNITS[unit.lower()] == 0:
            return f"{size_bytes // _UNITS[unit.lower()]}{unit}"
    return str(size_bytes)


def _parse_memory(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes < MEMORY_MIN_BYTES:
        raise ValueError(
            f"is less than a node needs: at least {show_size(MEMORY_MIN_BYTES)} (write 64MB, 1GiB or bytes)"
        )
    return size_bytes


def _parse_answer_rate(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes < ANSWER_RATE_MIN_BYTES:
        raise ValueError(f"is less than a client needs: at least {show_size(ANSWER_RATE_MIN_BYTES)} (a second)")
    return size_bytes


def _parse_bind(text: str) -> str:
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not servers.is_address(address):
        raise ValueError("isn't an IPv4 or IPv6 address (host names are not looked up here)")
    return address.lower()


def _parse_http_hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",")) if text else ()
    if len(names) > _HTTP_HOSTS_MAX:
        raise ValueError(f"names more than {_HTTP_HOSTS_MAX}")
    for name in names:
        if name != "*" and not servers.is_name(name):
            raise ValueError("isn't a host name, several with commas between, or *: ports are left out")
    return names


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse_choice(text: str) -> str:
        if text not in choices:
            raise ValueError(f"isn't one of {', '.join(choices)}")
        return text

    return parse_choice


def _parse_yes_or_no(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


# Options that are no more, and what to do instead.
_GONE: Final = {
    "--on-partition": "is no more: a side with too few servers always refuses. Leave it out; what an operator can do"
    " about it is in docs/operations.md",
}

# Variables that are no settings of a node's: of app/fast, of the tools, of the compose files.
_OTHER_VARIABLES: Final = {"KV_FAST", "KV_SERVER", "KV_PUBLISH"}
# How the names begin that orchestrators make up for a service that is named kv.
_ORCHESTRATORS: Final = ("KV_PORT", "KV_SERVICE_")


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one setting, kept with its field."""

    option: str  # empty: it is taken from the environment only
    parse: Callable[[str], Any]
    metavar: str
    default: str | None  # as one would type it; None: `default_words` says what then holds
    default_words: str
    group: str
    help: str
    variable: str  # of the environment
    is_secret: bool  # never to be shown


def _variable(option: str) -> str:
    return "KV_" + option.removeprefix("--").replace("-", "_").upper()


def _setting(
    option: str,
    parse: Callable[[str], Any],
    metavar: str,
    *,
    default: str | None,
    default_words: str = "",
    group: str,
    help: str,
    variable: str = "",
    is_secret: bool = False,
) -> Any:
    """A field of Options that is also an option, a variable and a paragraph of the manual."""
    variable = variable or _variable(option)
    setting = Setting(option, parse, metavar, default, default_words or str(default), group, help, variable, is_secret)
    return field(default=None if default is None else parse(default), metadata={"setting": setting}, repr=not is_secret)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a node is to run: everything checked, names resolved. `parse` makes one."""

    port: int  # UDP, and TCP between nodes
    servers: tuple[Server, ...]  # of the servers file, in its order; with `joins` this node and those that it asks
    me: Server  # the one of them that this node is
    servers_file: str = ""  # where they are named; empty: nowhere

    max_memory_bytes: int = _setting(
        "--max-memory",
        _parse_memory,
        "SIZE",
        default="128MiB",
        group="Memory",
        help=f"""
            Resident memory that the whole process stays under, interpreter included: the store gets what
            the rest leaves. Sizes: 64MB (powers of 1000), 1GiB or 1G (powers of 1024), or a number of
            bytes; at least {show_size(MEMORY_MIN_BYTES)}.""",
    )
    policy: str = _setting(
        "--policy",
        _one_of("allkeys-lru", "noeviction"),
        "POLICY",
        default="allkeys-lru",
        group="Memory",
        help="""
            What a full store does with a new value: allkeys-lru drops the keys that were used least
            recently, noeviction answers NO_SPC_ERR until keys are removed.""",
    )
    bind: str = _setting(
        "--bind",
        _parse_bind,
        "ADDRESS",
        default=None,
        default_words="0.0.0.0 or ::, all of them, as fits this node's line in SERVERS_FILE",
        group="Network",
        help="""
            The one address to receive on, numeric. On all of them the node answers from the one that it
            was asked at.""",
    )
    advertise: tuple[str, int] | None = _setting(
        "--advertise",
        split_host_port,
        "HOST:PORT",
        default=None,
        default_words="the line with PORT and an address of this machine",
        group="Network",
        help="""
            Which line of SERVERS_FILE is this node, as it is there, or by its address or another name of it.
            Needed where the machine doesn't have the address that others reach it by (address translation, a
            container's published port), or has several that are in the file.""",
    )
    allow: tuple[Network, ...] | None = _setting(
        "--allow",
        allowlist.parse_networks,
        "CIDR[,CIDR...]",
        default=None,
        default_words="everybody",
        group="Network",
        help=f"""
            Whose requests are answered, like 10.0.0.0/8,fd00::/8,127.0.0.1 (at most {allowlist.NETWORKS_MAX}
            networks); others' are dropped and counted. The servers of SERVERS_FILE are always among them;
            tools and health checks on this machine come from 127.0.0.1. What nodes say to each other is not
            concerned.""",
    )
    admin_allow: tuple[Network, ...] | None = _setting(
        "--admin-allow",
        allowlist.parse_networks,
        "CIDR[,CIDR...]",
        default=None,
        default_words="everybody who may send requests",
        group="Network",
        help="""
            Whose SHUTDOWN, WIPEOUT, FOUND and CONFIG are obeyed; others' are dropped, counted and logged. With
            --allow, all of it must be within that.""",
    )
    answer_rate_bytes: int = _setting(
        "--answer-rate",
        _parse_answer_rate,
        "SIZE",
        default="256MiB",
        group="Network",
        help=f"""
            Bytes of answers that one address (of IPv6: its first 64 bits) gets in a second, about; beyond that
            those of more than twice the request's bytes are SYS_OVERLOAD_ERR. It bounds what a victim can be
            sent by who asks in its name: the default is more than a client takes, so where strangers can reach
            the node say what yours need. At least {show_size(ANSWER_RATE_MIN_BYTES)}. This machine
            (127.0.0.1, ::1) and the servers of SERVERS_FILE are exempt.""",
    )
    http_port: int | None = _setting(
        "--http",
        number(int, 1, PORT_MAX, what="a port: a number"),
        "PORT",
        default=None,
        default_words="off",
        group="Network",
        help=f"""
            TCP port for people and programs that watch the node: the status page at /, metrics for Prometheus
            at /metrics, /health and /ready for probes. It changes nothing and asks nobody who they are. It takes
            9 MiB of --max-memory, which must be {show_size(MEMORY_MIN_HTTP_BYTES)} or more.""",
    )
    http_bind: str = _setting(
        "--http-bind",
        _parse_bind,
        "ADDRESS",
        default=None,
        default_words="that of --bind",
        group="Network",
        help="The address that --http receives on, numeric.",
    )
    http_hosts: tuple[str, ...] = _setting(
        "--http-host",
        _parse_http_hosts,
        "NAME[,NAME...]",
        default="",
        default_words="none",
        group="Network",
        help=f"""
            Further names by which browsers, probes and scrapes may call the node in HTTP's Host, at most
            {_HTTP_HOSTS_MAX}; or *: any. Numeric addresses, localhost, the machine's name and the one in SERVERS_FILE
            are always taken; others are refused, since a stranger's page in somebody's browser can make a name of
            its own stand for this node.""",
    )
    reply_ttl_s: float = _setting(
        "--reply-ttl",
        number(
            float,
            REPLY_TTL_MIN_S,
            REPLY_TTL_MAX_S,
            what="a number of seconds",
            why=f"a client's last try leaves {_LAST_TRY_S:g} s after its first",
        ),
        "SECONDS",
        default="6",
        group="Requests",
        help=f"""
            How long the answer to a PUT, REMOVE or WIPEOUT is remembered, so that a retry gets it instead
            of taking effect twice: {REPLY_TTL_MIN_S:g} to {REPLY_TTL_MAX_S:g} (a client's last try leaves
            {_LAST_TRY_S:g} s after its first). Memory for answers is bounded and none is forgotten early:
            twice the time is half the writes a second before clients are told to wait.""",
    )
    max_in_flight: int = _setting(
        "--max-in-flight",
        number(int, 1, IN_FLIGHT_MAX),
        "NUMBER",
        default=str(_IN_FLIGHT_DEFAULT),
        group="Requests",
        help=f"""
            Requests that may wait at once for something that isn't in this node's memory; one more is
            answered SYS_OVERLOAD_ERR. 1 to {IN_FLIGHT_MAX}; each can hold {show_size(DATAGRAM_MAX_BYTES)},
            and all together at most half of --max-memory.""",
    )
    slow_ms: int = _setting(
        "--slow-ms",
        number(int, 0, SLOW_MAX_MS, what="a number of milliseconds"),
        "NUMBER",
        default="0",
        default_words="0, which is off",
        group="Requests",
        help="""
            Requests that take so many milliseconds or more are kept, the last 128 of them, for `tools/kv.py
            slowlog` and /slowlog: command, key, duration, client.""",
    )
    replicas: int = _setting(
        "--replicas",
        number(int, 1, COPIES_MAX),
        "NUMBER",
        default="3",
        group="Cluster",
        help=f"""
            Copies of each slot, the primary's included, as far as there are nodes: 1 to {COPIES_MAX}. The
            same on every node.""",
    )
    join: tuple[tuple[str, int], ...] | None = _setting(
        "--join",
        parse_seeds,
        "HOST:PORT,...",
        default=None,
        default_words="SERVERS_FILE, which says who founds the cluster",
        group="Cluster",
        help="""
            Join the cluster that any of these nodes is a member of, each as the cluster calls it, in place of
            SERVERS_FILE. This node founds none. Others know it by --advertise, and add it to those that belong
            since it knows the secret; without one that is refused.""",
    )
    forget_after_s: float = _setting(
        "--forget-after",
        number(float, 0.0, FORGET_AFTER_MAX_S, what="a number of seconds"),
        "SECONDS",
        default="0",
        default_words="0, never",
        group="Cluster",
        help=f"""
            A server that was added (by `kv.py add-server` or --join), is no member and has been silent for so long
            belongs to the cluster no more: up to {FORGET_AFTER_MAX_S:g}. With --join it is added again when it comes
            back. Longer than a restart takes. Founders, which the servers file names, are never forgotten.""",
    )
    file_rules: bool = _setting(
        "--file-rules",
        _parse_yes_or_no,
        "yes|no",
        default="no",
        group="Cluster",
        help="""
            Whether a server whose line is missing when SERVERS_FILE is read again (see Signals) is none any more.
            If not, it stays one until this node is started anew. It stays one in any case while it is a member:
            stop it, then have the file read once more.""",
    )
    trust_refusals: bool = _setting(
        "--trust-refusals",
        _parse_yes_or_no,
        "yes|no",
        default="no",
        group="Cluster",
        help="""
            Whether a connection that another machine refuses proves that its node is dead, so that others take
            its slots over at once and not when its lease is over. Say yes only if nothing between the machines
            refuses for a node that lives (a firewall that rejects, a proxy, a published port without its
            container): the price of being wrong is two nodes that serve a slot, and lost writes. On one
            machine it is always a proof.""",
    )
    coordination: Coordination | None = _setting(  # noqa: RUF009 - it makes a field
        "--coordination",
        parse_coordination,
        "ENGINE",
        default="built-in",
        group="Cluster",
        help="""
            What decides who is a member and holds what: built-in, which needs nothing else; or an etcd (3.4 or
            later) that runs anyway, as etcd:http://10.0.0.1:2379,http://10.0.0.2:2379/NAME: then any number of
            survivors goes on. NAME is the cluster's in there. The same on every node.""",
    )
    etcd_user: Credentials | None = _setting(  # noqa: RUF009 - it makes a field
        "--etcd-user-file",
        read_credentials,
        "PATH",
        default=None,
        default_words="none",
        group="Cluster",
        help="A file of one line USER:PASSWORD, for an etcd that asks who a node is.",
        is_secret=True,
    )
    etcd_ca_file: str | None = _setting(
        "--etcd-ca-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="those the system trusts",
        group="Cluster",
        help="Certificates of those whose signature etcd's own must have, for https://.",
    )
    etcd_cert_file: str | None = _setting(
        "--etcd-cert-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="none",
        group="Cluster",
        help="This node's own certificate, and its key unless --etcd-key-file has it, for an etcd that asks for one.",
    )
    etcd_key_file: str | None = _setting(
        "--etcd-key-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="in the certificate's file",
        group="Cluster",
        help="The key of --etcd-cert-file, not encrypted.",
    )
    leave_timeout_s: float = _setting(
        "--leave-timeout",
        number(float, 0.0, LEAVE_TIMEOUT_MAX_S, what="a number of seconds"),
        "SECONDS",
        default="10",
        group="Cluster",
        help=f"""
            How long a node that is told to stop takes at most to hand its slots over: 0 to
            {LEAVE_TIMEOUT_MAX_S:g}. After that it stops all the same. A second signal stops it at once.""",
    )
    secret: bytes | None = _setting(
        "",
        parse_secret,
        "SECRET",
        default=None,
        group="Cluster",
        help="",
        variable="KV_CLUSTER_SECRET",
        is_secret=True,
    )
    secret_file: SecretFile | None = _setting(  # noqa: RUF009 - it makes a field
        "",
        read_secret,
        "PATH",
        default=None,
        group="Cluster",
        help="",
        variable="KV_CLUSTER_SECRET_FILE",
        is_secret=True,
    )
    log_level: str = _setting(
        "--log-level",
        _one_of(*logs.LEVELS),
        "LEVEL",
        default="info",
        group="Logging",
        help=f"""
            The least level that is logged: {", ".join(logs.LEVELS)}. At info a node logs its changes of
            state, nothing per request.""",
    )
    log_format: str = _setting(
        "--log-format",
        _one_of(*logs.FORMATS),
        "FORMAT",
        default="text",
        group="Logging",
        help="""
            How lines on standard error look: text (TIME LEVEL event field=value ...) or json (an object a
            line).""",
    )

    def __post_init__(self) -> None:
        if self.bind is None:
            object.__setattr__(self, "bind", "::" if self._needs_ipv6 else "0.0.0.0")
        if self.http_bind is None:
            object.__setattr__(self, "http_bind", self.bind)

    @property
    def _needs_ipv6(self) -> bool:
        """Whether others reach this node by IPv6; if its name has no address yet, whether they are all reached so."""
        found = [self.me.address] if self.me.address else [one.address for one in self.servers if one.address]
        return bool(found) and all(":" in address for address in found)

    @property
    def joins(self) -> bool:
        """Whether it founds no cluster."""
        return self.join is not None

    @property
    def cluster_secret(self) -> bytes | None:
        """What nodes prove to each other that they know; None: they go by the servers file's addresses."""
        return self.secret_file.secret if self.secret_file else self.secret


def settings() -> Iterator[tuple[str, Setting]]:
    """Every setting that is an option, with the name of its field, in the order of the manual."""
    return ((name, setting) for name, setting in _all_settings() if setting.option)


def _all_settings() -> Iterator[tuple[str, Setting]]:
    """Those that only the environment gives as well."""
    for declared in fields(Options):
        if "setting" in declared.metadata:
            yield declared.name, declared.metadata["setting"]


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The options that the command line (without the program's name) and the environment give.

    Reads the servers file and resolves the names in it. Raises UsageError for anything wrong; --help and
    --version print that and raise SystemExit(0).
    """
    given = _parse_command_line(arguments)
    for option, instead in _GONE.items():
        if environment.get(_variable(option)):
            raise UsageError(f"{_variable(option)} {instead}")
    values = {name: _value(setting, getattr(given, name, None), environment) for name, setting in _all_settings()}
    try:
        port = servers.parse_port(given.port)
    except ValueError as error:
        raise UsageError(f"PORT: {error}") from None
    try:
        if values["join"] is not None:
            me, listed = _joining(given.servers_file, values)
        else:
            listed = servers.load(_file(given.servers_file))
            me = servers.find_me(
                listed, port, name=given.servers_file, bind=values["bind"], advertise=values["advertise"]
            )
    except ServersError as error:
        raise UsageError(str(error)) from None
    options = Options(port=port, servers=listed, me=me, servers_file=given.servers_file or "", **values)
    _check_together(options)
    return options


def _file(given: str | None) -> str:
    if not given:
        raise UsageError("the following arguments are required: SERVERS_FILE, or --join (see --help)")
    return given


def _joining(servers_file: str | None, values: Mapping[str, Any]) -> tuple[Server, tuple[Server, ...]]:
    """This node, and all that it knows of at first. Raises UsageError, ServersError."""
    if servers_file:
        raise UsageError(f"--join is in place of a servers file: leave out {servers_file}, or --join")
    if values["advertise"] is None:
        raise UsageError("--join needs --advertise HOST:PORT: what the other nodes are to call this one")
    named = dict.fromkeys((values["advertise"], *values["join"]))
    if len(named) == 1:
        raise UsageError("--join names this node alone: name a member of the cluster")
    listed = servers.resolve([servers.Entry(host, port, 0) for host, port in named], "--join", servers.lookup_host)
    return listed[0], listed


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """The KV_ variables that nothing here heeds but that look like a setting's, each with the nearest of those."""
    known = {setting.variable for _, setting in _all_settings()} | _OTHER_VARIABLES
    endings = [variable.removeprefix("KV_") for variable in sorted(known)]
    found: dict[str, str] = {}
    for name in sorted(environment):
        if name.startswith("KV_") and name not in known and not name.startswith(_ORCHESTRATORS):
            near = difflib.get_close_matches(name.removeprefix("KV_"), endings, 1, 0.7)
            if near:
                found[name] = f"KV_{near[0]}"
    return found


def _parse_command_line(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            continue
        option = argument.partition("=")[0]
        if option in _GONE:
            raise UsageError(f"{option} {_GONE[option]}")
        close = difflib.get_close_matches(option, [setting.option for _, setting in settings()], 1)
        raise UsageError(f"unknown option {option!r} ({f'is {close[0]} meant?' if close else 'see --help'})")
    if rest and given.servers_file is None:  # argparse leaves out what may be missing, if an option stands before it
        given.servers_file = rest.pop(0)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r} (see --help)")
    return given


def _value(setting: Setting, typed: str | None, environment: Mapping[str, str]) -> Any:
    """The setting's value from the first of: command line, environment, default."""
    source, text = setting.option, typed
    if text is None:
        source, text = setting.variable, environment.get(setting.variable) or setting.default
    if text is None:
        return None
    try:
        return setting.parse(text)
    except ValueError as error:
        if setting.is_secret:
            raise UsageError(f"{source}: {error}") from None
        raise UsageError(f"{source} {text!r}: {error}") from None


def _check_together(options: Options) -> None:
    """What no single option shows. Raises UsageError."""
    if ":" not in options.bind and ":" in options.me.address:
        raise UsageError(
            f"--bind {options.bind} is IPv4, but others reach {options.me} at {options.me.address}:"
            " bind an IPv6 address or change the servers file"
        )
    # The IPv6 wildcard takes IPv4 as well, unless the system says otherwise.
    if ":" in options.bind and options.bind != "::" and options.me.address and ":" not in options.me.address:
        raise UsageError(
            f"--bind {options.bind} is IPv6, but others reach {options.me} at {options.me.address}:"
            " bind an IPv4 address or change the servers file"
        )
    if options.allow is not None:
        for network in options.admin_allow or ():
            if not any(allowlist.covers(allowed, network) for allowed in options.allow):
                raise UsageError(
                    f"--admin-allow {allowlist.show_network(network)} isn't within"
                    f" --allow {allowlist.show_networks(options.allow)}: add it there"
                )
    if options.http_port == options.port:
        raise UsageError(f"--http {options.port} is also PORT, whose TCP side is for links between nodes")
    if options.http_port and options.max_memory_bytes < MEMORY_MIN_HTTP_BYTES:
        raise UsageError(
            f"--max-memory {show_size(options.max_memory_bytes)} is less than a node with --http needs:"
            f" at least {show_size(MEMORY_MIN_HTTP_BYTES)}"
        )
    is_tls = options.coordination is not None and options.coordination.endpoints[0].is_tls
    if options.etcd_user is not None and options.coordination is None:
        raise UsageError("--etcd-user-file without an etcd: say which by --coordination")
    if (options.etcd_ca_file or options.etcd_cert_file or options.etcd_key_file) and not is_tls:
        raise UsageError("certificates (--etcd-ca-file and the like) are for an etcd that is asked by https://: say so")
    if options.etcd_key_file and not options.etcd_cert_file:
        raise UsageError("--etcd-key-file without --etcd-cert-file, whose key it has: say which that is")
    if options.joins and options.cluster_secret is None:
        raise UsageError("--join needs a secret: set KV_CLUSTER_SECRET or KV_CLUSTER_SECRET_FILE")
    if options.secret and options.secret_file:
        raise UsageError("KV_CLUSTER_SECRET and KV_CLUSTER_SECRET_FILE are both set: unset one of them")
    limit = memory_limit()
    if options.max_memory_bytes > limit.size_bytes:
        raise UsageError(
            f"--max-memory {show_size(options.max_memory_bytes)} is more than this process may take:"
            f" {limit.size_bytes // _MIB}MiB ({limit.source}): lower it or raise the limit"
        )
    if _in_flight_bytes(options.max_in_flight) > options.max_memory_bytes // 2:
        most = options.max_memory_bytes // 2 // DATAGRAM_MAX_BYTES
        raise UsageError(
            f"--max-in-flight {options.max_in_flight} requests could fill more than half of --max-memory"
            f" {show_size(options.max_memory_bytes)}: say at most {most}, or raise --max-memory"
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


# What --help says before the options, and after them.
_DESCRIPTION: Final = """\
One node of a distributed key-value store that keeps everything in memory, and
that memory within a bound. Clients reach any node by UDP on PORT."""

_AFTER_OPTIONS: Final = f"""\
Environment:
  Each option is also an environment variable, named with it above. The command
  line has precedence over it; an empty variable counts as unset.

  KV_CLUSTER_SECRET, or KV_CLUSTER_SECRET_FILE with the name of a file that
  holds it: a secret that all nodes share and prove to each other, random, of
  {SECRET_MIN_BYTES} bytes or more (head -c 24 /dev/urandom | base64). Without one, nodes
  believe whatever comes from the addresses in the servers file, so their
  network must be trusted. Not to be had on the command line, where every user
  of the machine could read it.

  KV_FAST: whether the compiled core is used, which answers a request in about
  half the time. Unset: where it was built. off: never, so that the Python does
  all of it, and the same. on: the node does not start without it.

  PYTHONHASHSEED is not heeded: whoever knew it could choose keys that make
  every request slow.

Servers file:
  One HOST:PORT or [IPV6]:PORT a line, the same file on every node; # starts a
  comment. One line makes a cluster of one. A name's address is looked up at
  start, and again when its server can't be reached; a name that has none is
  that of a server which is not there yet.

Signals:
  TERM, INT   hand the slots over to the other nodes, then stop
  USR1        write all counters to the log
  HUP         read SERVERS_FILE again: lines that were added are servers from
              now on, in the same cluster; and KV_CLUSTER_SECRET_FILE: a new
              secret is taken besides the old one, at the next HUP used, at the
              third alone; and the files that --etcd-... name. A file with a
              fault changes nothing.

Exit status:
  0   stopped as told: by a signal, or by a client's SHUTDOWN
  2   not started: the one line on standard error says why
  Any other is a fault, told in the last lines on standard error.

Examples:
  python app/main.py 3331 servers.txt
  python app/main.py 3331 servers.txt --max-memory 1GiB --policy noeviction
  KV_LOG_FORMAT=json python app/main.py 3332 servers.txt --bind 192.0.2.7
"""


def _parser() -> argparse.ArgumentParser:
    """Collects words as they were typed: `_value` makes values of them, and of the environment's alike."""
    parser = _Parser(
        prog="python app/main.py",
        usage="%(prog)s PORT SERVERS_FILE [options]\n       %(prog)s PORT --join HOST:PORT,... [options]",
        description=_DESCRIPTION,
        epilog=_AFTER_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation would change its meaning when an option is added
        add_help=False,
    )
    required = parser.add_argument_group("Arguments")
    required.add_argument("port", metavar="PORT", help="UDP port to serve on; TCP between nodes")
    required.add_argument(
        "servers_file", metavar="SERVERS_FILE", nargs="?", help="the cluster's nodes, this one included"
    )
    groups: dict[str, Any] = {}
    for name, setting in settings():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        groups[setting.group].add_argument(
            setting.option,
            dest=name,
            metavar=setting.metavar,
            help=f"{setting.help} Default: {setting.default_words}. [{setting.variable}]".replace("%", "%%"),
        )
    about = parser.add_argument_group("Help")
    about.add_argument("-h", "--help", action="help", help="print this and leave")
    about.add_argument("--version", action="version", version=f"kv-node {VERSION}", help="print that and leave")
    return parser

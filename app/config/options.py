"""What a node is told when it is started: the command line, the environment, and the servers file.

The approach is gunicorn's: each setting is declared once, as a field of `Options` with its option, its
parser, its default as one would type it, and its help text; the command line, the environment variable
(`--max-memory` is also KV_MAX_MEMORY) and the manual that --help prints all follow from that. Adding a
setting is adding a field. What is wrong raises `UsageError` with one line that says what to change; nothing
here prints or exits, but for --help. How a setting is declared is in setting.py, which values one takes and
why in values.py, the words of the command line and the manual in usage.py.

The command line has precedence over the environment, that over the default. An empty variable counts as
unset, since compose files and unit files can hardly leave one out. Unknown KV_ variables are no fault:
orchestrators make their own for a service that is named kv (KV_PORT=tcp://...), which is also why PORT and
SERVERS_FILE have none. But one that is nearly a setting's was meant for it: `misspelt`.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

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
from app.config.secret import SecretFile, parse_secret, read_secret
from app.config.servers import Server, ServersError, parse_seeds, split_host_port
from app.config.setting import Setting, declare, variable_of
from app.config.usage import GONE, UsageError, words
from app.config.values import (
    ANSWER_RATE_MIN_BYTES,
    FORGET_AFTER_MAX_S,
    HTTP_HOSTS_MAX,
    IN_FLIGHT_DEFAULT,
    IN_FLIGHT_MAX,
    LAST_TRY_S,
    LEAVE_TIMEOUT_MAX_S,
    MEMORY_MIN_BYTES,
    MEMORY_MIN_HTTP_BYTES,
    MIB,
    REPLY_TTL_MAX_S,
    REPLY_TTL_MIN_S,
    SLOW_MAX_MS,
    in_flight_bytes,
    one_of,
    parse_answer_rate,
    parse_bind,
    parse_http_hosts,
    parse_memory,
    parse_yes_or_no,
    show_size,
)
from app.observe import logs
from app.wire.protocol import ADDRESS_MAX_BYTES, COPIES_MAX, DATAGRAM_MAX_BYTES, SERVERS_MAX

# Variables that are no settings of a node's: of app/fast, of the tools, of the compose files.
_OTHER_VARIABLES: Final = {"KV_FAST", "KV_SERVER", "KV_PUBLISH"}
# How the names begin that orchestrators make up for a service that is named kv.
_ORCHESTRATORS: Final = ("KV_PORT", "KV_SERVICE_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a node is to run: everything checked, names resolved. `parse` makes one."""

    port: int  # UDP, and TCP between nodes
    servers: tuple[Server, ...]  # of the servers file, in its order; with `joins` this node and those that it asks
    me: Server  # the one of them that this node is
    servers_file: str = ""  # where they are named; empty: nowhere

    max_memory_bytes: int = declare(
        "--max-memory",
        parse_memory,
        "SIZE",
        default="128MiB",
        group="Memory",
        help=f"""
            Resident memory that the whole process stays under, interpreter included: the store gets what
            the rest leaves. Sizes: 64MB (powers of 1000), 1GiB or 1G (powers of 1024), or a number of
            bytes; at least {show_size(MEMORY_MIN_BYTES)}.""",
    )
    policy: str = declare(
        "--policy",
        one_of("allkeys-lru", "noeviction"),
        "POLICY",
        default="allkeys-lru",
        group="Memory",
        help="""
            What a full store does with a new value: allkeys-lru drops the keys that were used least
            recently, noeviction answers NO_SPC_ERR until keys are removed.""",
    )
    bind: str = declare(
        "--bind",
        parse_bind,
        "ADDRESS",
        default=None,
        default_words="0.0.0.0 or ::, all of them, as fits this node's line in SERVERS_FILE",
        group="Network",
        help="""
            The one address to receive on, numeric. On all of them the node answers from the one that it
            was asked at.""",
    )
    advertise: tuple[str, int] | None = declare(
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
    allow: tuple[Network, ...] | None = declare(
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
    admin_allow: tuple[Network, ...] | None = declare(
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
    answer_rate_bytes: int = declare(
        "--answer-rate",
        parse_answer_rate,
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
    http_port: int | None = declare(
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
    http_bind: str = declare(
        "--http-bind",
        parse_bind,
        "ADDRESS",
        default=None,
        default_words="that of --bind",
        group="Network",
        help="The address that --http receives on, numeric.",
    )
    http_hosts: tuple[str, ...] = declare(
        "--http-host",
        parse_http_hosts,
        "NAME[,NAME...]",
        default="",
        default_words="none",
        group="Network",
        help=f"""
            Further names by which browsers, probes and scrapes may call the node in HTTP's Host, at most
            {HTTP_HOSTS_MAX}; or *: any. Numeric addresses, localhost, the machine's name and the one in SERVERS_FILE
            are always taken; others are refused, since a stranger's page in somebody's browser can make a name of
            its own stand for this node.""",
    )
    reply_ttl_s: float = declare(
        "--reply-ttl",
        number(
            float,
            REPLY_TTL_MIN_S,
            REPLY_TTL_MAX_S,
            what="a number of seconds",
            why=f"a client's last try leaves {LAST_TRY_S:g} s after its first",
        ),
        "SECONDS",
        default="6",
        group="Requests",
        help=f"""
            How long the answer to a PUT, REMOVE or WIPEOUT is remembered, so that a retry gets it instead
            of taking effect twice: {REPLY_TTL_MIN_S:g} to {REPLY_TTL_MAX_S:g} (a client's last try leaves
            {LAST_TRY_S:g} s after its first). Memory for answers is bounded and none is forgotten early:
            twice the time is half the writes a second before clients are told to wait.""",
    )
    max_in_flight: int = declare(
        "--max-in-flight",
        number(int, 1, IN_FLIGHT_MAX),
        "NUMBER",
        default=str(IN_FLIGHT_DEFAULT),
        group="Requests",
        help=f"""
            Requests that may wait at once for something that isn't in this node's memory; one more is
            answered SYS_OVERLOAD_ERR. 1 to {IN_FLIGHT_MAX}; each can hold {show_size(DATAGRAM_MAX_BYTES)},
            and all together at most half of --max-memory.""",
    )
    slow_ms: int = declare(
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
    replicas: int = declare(
        "--replicas",
        number(int, 1, COPIES_MAX),
        "NUMBER",
        default="3",
        group="Cluster",
        help=f"""
            Copies of each slot, the primary's included, as far as there are nodes: 1 to {COPIES_MAX}. The
            same on every node.""",
    )
    join: tuple[tuple[str, int], ...] | None = declare(
        "--join",
        parse_seeds,
        "HOST:PORT,...",
        default=None,
        default_words="found one with those in SERVERS_FILE",
        group="Cluster",
        help="""
            Join the cluster that any of these nodes is a member of, each as the cluster calls it. This node founds
            none. Others know it by --advertise, and add it to those that belong since it knows the secret; without
            one that is refused. It needs no SERVERS_FILE. With one besides, whoever is in it, by the very name that
            --advertise has, founds by it and is not concerned by this: so all nodes can be started alike.""",
    )
    forget_after_s: float = declare(
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
    file_rules: bool = declare(
        "--file-rules",
        parse_yes_or_no,
        "yes|no",
        default="no",
        group="Cluster",
        help="""
            Whether a server whose line is missing when SERVERS_FILE is read again (see Signals) is none any more.
            If not, it stays one until this node is started anew. It stays one in any case while it is a member:
            stop it, then have the file read once more.""",
    )
    trust_refusals: bool = declare(
        "--trust-refusals",
        parse_yes_or_no,
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
    coordination: Coordination | None = declare(  # noqa: RUF009 - it makes a field
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
    etcd_user: Credentials | None = declare(  # noqa: RUF009 - it makes a field
        "--etcd-user-file",
        read_credentials,
        "PATH",
        default=None,
        default_words="none",
        group="Cluster",
        help="A file of one line USER:PASSWORD, for an etcd that asks who a node is.",
        is_secret=True,
    )
    etcd_ca_file: str | None = declare(
        "--etcd-ca-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="those the system trusts",
        group="Cluster",
        help="Certificates of those whose signature etcd's own must have, for https://.",
    )
    etcd_cert_file: str | None = declare(
        "--etcd-cert-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="none",
        group="Cluster",
        help="This node's own certificate, and its key unless --etcd-key-file has it, for an etcd that asks for one.",
    )
    etcd_key_file: str | None = declare(
        "--etcd-key-file",
        file_of_certificates,
        "PATH",
        default=None,
        default_words="in the certificate's file",
        group="Cluster",
        help="The key of --etcd-cert-file, without a passphrase.",
    )
    leave_timeout_s: float = declare(
        "--leave-timeout",
        number(float, 0.0, LEAVE_TIMEOUT_MAX_S, what="a number of seconds"),
        "SECONDS",
        default="10",
        group="Cluster",
        help=f"""
            How long a node that is told to stop takes at most to hand its slots over: 0 to
            {LEAVE_TIMEOUT_MAX_S:g}. After that it stops all the same. A second signal stops it at once.""",
    )
    secret: bytes | None = declare(
        "",
        parse_secret,
        "SECRET",
        default=None,
        group="Cluster",
        help="",
        variable="KV_CLUSTER_SECRET",
        is_secret=True,
    )
    secret_file: SecretFile | None = declare(  # noqa: RUF009 - it makes a field
        "",
        read_secret,
        "PATH",
        default=None,
        group="Cluster",
        help="",
        variable="KV_CLUSTER_SECRET_FILE",
        is_secret=True,
    )
    log_level: str = declare(
        "--log-level",
        one_of(*logs.LEVELS),
        "LEVEL",
        default="info",
        group="Logging",
        help=f"""
            The least level that is logged: {", ".join(logs.LEVELS)}. At info a node logs its changes of
            state, nothing per request.""",
    )
    log_format: str = declare(
        "--log-format",
        one_of(*logs.FORMATS),
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

    @property
    def secret_paths(self) -> list[str]:
        """The files whose content no other user of the machine should know."""
        found = [file.path for file in (self.secret_file, self.etcd_user) if file is not None]
        key = self.etcd_key_file or self.etcd_cert_file
        return found if key is None else [*found, key]


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
    given = words(arguments, dict(settings()))
    for option, instead in GONE.items():
        if environment.get(variable_of(option)):
            raise UsageError(f"{variable_of(option)} {instead}")
    values = {name: _value(setting, getattr(given, name, None), environment) for name, setting in _all_settings()}
    try:
        port = servers.parse_port(given.port)
    except ValueError as error:
        raise UsageError(f"PORT: {error}") from None
    try:
        if values["join"] is not None and not _is_founder(given.servers_file, values):
            given.servers_file = ""  # it goes by what the members say
            me, listed = _joining(values)
        else:
            values["join"] = None
            listed = servers.load(_file(given.servers_file))
            me = servers.find_me(
                listed, port, name=given.servers_file, bind=values["bind"], advertise=values["advertise"]
            )
    except ServersError as error:
        raise UsageError(str(error)) from None
    options = Options(port=port, servers=listed, me=me, servers_file=given.servers_file, **values)
    _check_together(options)
    return options


def _file(given: str | None) -> str:
    if not given:
        raise UsageError("the following arguments are required: SERVERS_FILE, or --join (see --help)")
    return given


def _is_founder(servers_file: str | None, values: Mapping[str, Any]) -> bool:
    """Whether a node that is told to join is in the servers file, if it has one. Raises UsageError, ServersError."""
    if values["advertise"] is None:
        raise UsageError("--join needs --advertise HOST:PORT: what the other nodes are to call this one")
    if not (values["secret"] or values["secret_file"]):
        raise UsageError("--join needs a secret: set KV_CLUSTER_SECRET or KV_CLUSTER_SECRET_FILE")
    if not servers_file:
        return False
    # As it is written, and not by an address: where those are used again, another's name may still stand for ours.
    listed = servers.parse(servers.read_file(servers_file), servers_file)
    return any((entry.host, entry.port) == values["advertise"] for entry in listed)


def _joining(values: Mapping[str, Any]) -> tuple[Server, tuple[Server, ...]]:
    """This node, and all that it knows of at first. Raises UsageError, ServersError."""
    named = dict.fromkeys((values["advertise"], *values["join"]))
    if len(named) == 1:
        raise UsageError("--join names this node alone: name a member of the cluster")
    if len(named) > SERVERS_MAX:
        raise UsageError(f"--join names more than {SERVERS_MAX - 1} servers: a cluster has no more")
    for server in named:
        if len(name := servers.join_host_port(*server)) > ADDRESS_MAX_BYTES:
            what = "--advertise" if server == values["advertise"] else "--join"
            raise UsageError(f"{what} {name}: a server's name has at most {ADDRESS_MAX_BYTES} bytes, its port included")
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
            f" {limit.size_bytes // MIB}MiB ({limit.source}): lower it or raise the limit"
        )
    if in_flight_bytes(options.max_in_flight) > options.max_memory_bytes // 2:
        most = options.max_memory_bytes // 2 // DATAGRAM_MAX_BYTES
        raise UsageError(
            f"--max-in-flight {options.max_in_flight} requests could fill more than half of --max-memory"
            f" {show_size(options.max_memory_bytes)}: say at most {most}, or raise --max-memory"
        )

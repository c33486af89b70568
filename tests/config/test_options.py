"""The command line and the environment: values, precedence, limits, and one clear line for what is wrong."""

import dataclasses
import os
from pathlib import Path

import pytest

from app.config import options
from app.config.allowlist import parse_networks
from app.config.cgroup import MemoryLimit
from app.config.coordination import Coordination, Credentials, Endpoint
from app.config.options import (
    Options,
    misspelt,
    parse,
    settings,
)
from app.config.servers import Server
from app.config.usage import UsageError
from app.config.values import IN_FLIGHT_MAX, MEMORY_MIN_BYTES, MEMORY_MIN_HTTP_BYTES

MIB = 1 << 20
SECRET = "correct horse battery staple"
HOME = Server("127.0.0.1", 3331, "127.0.0.1")
ETCD = Coordination((Endpoint("10.0.0.1", 2379, False),), "kv1")


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A servers file that names two nodes of this machine, by IPv4 and by IPv6."""
    path = tmp_path / "servers.txt"
    path.write_text("127.0.0.1:3331\n[::1]:3332\n")
    return str(path)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 4 GiB that has every loopback address, whatever this one is."""
    monkeypatch.setattr(options, "memory_limit", lambda: MemoryLimit(4096 * MIB, "a file"))


def refusal(arguments: list[str], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse(arguments, environment or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults(file: str) -> None:
    assert parse(["3331", file], {}) == Options(
        port=3331,
        servers=(HOME, Server("::1", 3332, "::1")),
        me=HOME,
        servers_file=file,
        max_memory_bytes=128 * MIB,
        policy="allkeys-lru",
        bind="0.0.0.0",
        advertise=None,
        allow=None,
        admin_allow=None,
        answer_rate_bytes=256 * MIB,
        http_port=None,
        http_bind="0.0.0.0",
        reply_ttl_s=6.0,
        max_in_flight=1024,
        slow_ms=0,
        replicas=3,
        join=None,
        forget_after_s=0.0,
        file_rules=False,
        trust_refusals=False,
        leave_timeout_s=10.0,
        secret=None,
        secret_file=None,
        log_level="info",
        log_format="text",
    )


def test_options_can_be_made_without_a_command_line() -> None:
    made = Options(port=3331, servers=(HOME,), me=HOME, max_in_flight=7)
    assert (made.bind, made.max_memory_bytes, made.max_in_flight) == ("0.0.0.0", 128 * MIB, 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("option", "text", "field", "value"),
    [
        ("--max-memory", "64MB", "max_memory_bytes", 64_000_000),
        ("--policy", "noeviction", "policy", "noeviction"),
        ("--bind", "127.0.0.1", "bind", "127.0.0.1"),
        ("--bind", "::", "bind", "::"),
        ("--bind", "[::]", "bind", "::"),
        ("--advertise", "127.0.0.1:3331", "advertise", ("127.0.0.1", 3331)),
        ("--allow", "10.0.0.0/8, ::1", "allow", parse_networks("10.0.0.0/8,::1")),
        ("--admin-allow", "192.0.2.7", "admin_allow", parse_networks("192.0.2.7")),
        ("--answer-rate", "64KiB", "answer_rate_bytes", 65_536),
        ("--http", "9100", "http_port", 9100),
        ("--http-bind", "[::1]", "http_bind", "::1"),
        ("--http-host", "KV1.example, node-7", "http_hosts", ("kv1.example", "node-7")),
        ("--http-host", "*", "http_hosts", ("*",)),
        ("--slow-ms", "60000", "slow_ms", 60_000),
        ("--reply-ttl", "7.5", "reply_ttl_s", 7.5),
        ("--reply-ttl", "7s", "reply_ttl_s", 7.0),
        ("--max-in-flight", "1", "max_in_flight", 1),
        ("--replicas", "1", "replicas", 1),
        ("--forget-after", "90", "forget_after_s", 90.0),
        ("--file-rules", "yes", "file_rules", True),
        ("--trust-refusals", "yes", "trust_refusals", True),
        ("--coordination", "etcd:http://10.0.0.1:2379/kv1", "coordination", ETCD),
        ("--coordination", "built-in", "coordination", None),
        ("--leave-timeout", "2.5", "leave_timeout_s", 2.5),
        ("--log-level", "debug", "log_level", "debug"),
        ("--log-format", "json", "log_format", "json"),
    ],
)
def test_each_setting_from_the_command_line_and_from_the_environment(
    file: str, option: str, text: str, field: str, value: object
) -> None:
    variable = "KV_" + option[2:].replace("-", "_").upper()
    for arguments, environment in (
        (["3331", file, option, text], {}),
        ([f"{option}={text}", "3331", file], {}),
        (["3331", option, text, file], {}),
        (["3331", file], {variable: text}),
        (["3331", file, option, text], {variable: "nonsense"}),
    ):
        assert getattr(parse(arguments, environment), field) == value, (arguments, environment)


def test_every_setting_is_tried_above() -> None:
    marks = test_each_setting_from_the_command_line_and_from_the_environment.pytestmark
    tried = {row[0] for row in marks[0].args[1]} | set(ETCD_FILES)
    tried |= {"--join"}  # below
    assert tried == {setting.option for _, setting in settings()}


ETCD_FILES = ("--etcd-user-file", "--etcd-ca-file", "--etcd-cert-file", "--etcd-key-file")


class TestFilesForEtcd:
    def arguments(self, file: str, url: str, *options: str) -> list[str]:
        return ["3331", file, "--coordination", f"etcd:{url}/kv1", *options]

    def test_they_are_read_at_the_start(self, file: str, tmp_path: Path) -> None:
        user, certificates = tmp_path / "user", tmp_path / "certificates"
        user.write_text("kv:a secret\n")
        certificates.write_text("-")
        given = ("--etcd-user-file", str(user), "--etcd-ca-file", str(certificates))
        given += ("--etcd-cert-file", str(certificates), "--etcd-key-file", str(certificates))
        options = parse(self.arguments(file, "https://etcd:2379", *given), {})
        assert options.etcd_user == Credentials("kv", "a secret")
        assert options.etcd_user.path == str(user)
        assert options.etcd_ca_file == options.etcd_cert_file == options.etcd_key_file == str(certificates)
        assert "a secret" not in repr(options)

    @pytest.mark.parametrize("option", ETCD_FILES)
    def test_those_that_can_not_be_read(self, file: str, tmp_path: Path, option: str) -> None:
        with pytest.raises(UsageError, match="can't be read"):
            parse(self.arguments(file, "https://etcd:2379", option, str(tmp_path / "none")), {})

    @pytest.mark.parametrize("option", ETCD_FILES[1:])
    def test_a_pipe_can_be_read_once_and_these_are_read_twice(self, file: str, tmp_path: Path, option: str) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="it is a pipe"):
            parse(self.arguments(file, "https://etcd:2379", option, str(tmp_path / "pipe")), {})

    def test_without_what_they_are_for(self, file: str, tmp_path: Path) -> None:
        some = tmp_path / "some"
        some.write_text("user:password")
        with pytest.raises(UsageError, match="without an etcd"):
            parse(["3331", file, "--etcd-user-file", str(some)], {})
        for option in ETCD_FILES[1:]:
            with pytest.raises(UsageError, match="https"):
                parse(self.arguments(file, "http://etcd:2379", option, str(some)), {})
        with pytest.raises(UsageError, match="without --etcd-cert-file"):
            parse(self.arguments(file, "https://etcd:2379", "--etcd-key-file", str(some)), {})


JOINING = {"KV_CLUSTER_SECRET": "a secret of sixteen or more"}
ME = ["--advertise", "127.0.0.9:3331"]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["3331", "--join", "127.0.0.1:3332, 127.0.0.2:3333", *ME], {}),
        ([*ME, "--join=127.0.0.1:3332,127.0.0.9:3331,127.0.0.2:3333", "3331"], {}),
        (["3331", *ME], {"KV_JOIN": "127.0.0.1:3332,127.0.0.2:3333"}),
    ],
)
def test_a_node_without_a_servers_file_asks_others(arguments: list[str], environment: dict[str, str]) -> None:
    made = parse(arguments, JOINING | environment)
    assert (made.joins, made.servers_file, made.me) == (True, "", Server("127.0.0.9", 3331, "127.0.0.9"))
    assert [str(server) for server in made.servers] == ["127.0.0.9:3331", "127.0.0.1:3332", "127.0.0.2:3333"]


def test_one_with_a_file_does_not_join(file: str) -> None:
    assert parse(["3331", file], {}).joins is False


LONG = f"{'a' * 40}.{'b' * 35}:3331"  # 81 bytes


@pytest.mark.parametrize(
    ("me", "is_founder"), [("127.0.0.1:3331", True), ("127.0.0.9:3331", False), ("localhost:3331", False)]
)
def test_with_a_file_besides_whoever_is_in_it_founds_and_any_other_joins(file: str, me: str, is_founder: bool) -> None:
    """So all are started alike: as pods are, one of which may have the address that another's name still stands for."""
    made = parse(["3331", file, "--join", "127.0.0.1:3331,127.0.0.1:3332", "--advertise", me], JOINING)
    assert made.joins is not is_founder
    assert made.servers_file == (file if is_founder else "")
    assert str(made.me) == (me if not is_founder else "127.0.0.1:3331")
    if is_founder:
        assert made.servers == parse(["3331", file, "--advertise", me], {}).servers
    else:
        assert [str(server) for server in made.servers] == [me, "127.0.0.1:3331", "127.0.0.1:3332"]


def test_a_founder_that_is_told_to_join_as_well_needs_a_secret_too(file: str) -> None:
    """What is wrong with all of them shows at the first."""
    arguments = ["3331", file, "--join", "127.0.0.1:3332", "--advertise", "127.0.0.1:3331"]
    with pytest.raises(UsageError, match="--join needs a secret"):
        parse(arguments, {})


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["--join", "127.0.0.1:1", "--advertise", "127.0.0.9:3331"], {}, "--join needs a secret"),
        (["--join", "127.0.0.1:1"], JOINING, "--join needs --advertise HOST:PORT"),
        (["--join", "127.0.0.9:3331", *ME], JOINING, "--join names this node alone"),
        (["--join", ",", *ME], JOINING, "--join ',': is empty: write host:port,..."),
        (["--join", "a", *ME], JOINING, "--join 'a': the port is missing"),
        (["FILE", "--join", "127.0.0.1:1"], JOINING, "--join needs --advertise HOST:PORT"),
        (["FILE", "--join", "127.0.0.1:1", *ME], JOINING, "can't read the servers file 'FILE'"),
        (["--join", LONG, *ME], JOINING, f"--join {LONG}: a server's name has at most 80 bytes, its port included"),
        (["--join", "127.0.0.1:1", "--advertise", LONG], JOINING, f"--advertise {LONG}: a server's name has at most"),
        (["--join", ",".join(f"127.0.0.1:{n}" for n in range(1, 65)), *ME], JOINING, "--join names more than 63"),
        (["--join", "0.0.0.0:1", *ME], JOINING, "--join: 0.0.0.0:1 isn't one machine's address"),
    ],
)
def test_what_is_wrong_with_joining(arguments: list[str], environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["3331", *arguments], environment)
    assert str(caught.value).startswith(complaint)


def test_the_last_of_a_repeated_option_counts(file: str) -> None:
    assert parse(["3331", file, "--policy", "noeviction", "--policy", "allkeys-lru"], {}).policy == "allkeys-lru"


def test_an_empty_variable_counts_as_unset(file: str) -> None:
    environment = {setting.variable: "" for _, setting in settings()}
    assert parse(["3331", file], environment) == parse(["3331", file], {})


def test_variables_of_an_orchestrator_are_let_pass(file: str) -> None:
    made = {
        "KV_PORT": "tcp://10.0.0.1:3331",
        "KV_PORT_3331_UDP_ADDR": "10.0.0.1",
        "KV_SERVICE_HOST": "10.0.0.1",
        "KV_SERVICE_PORT_HTTP": "9331",
    }
    parse(["3331", file], made)
    assert misspelt(made) == {}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KV_POLCY", "KV_POLICY"),
        ("KV_MAXMEMORY", "KV_MAX_MEMORY"),
        ("KV_MEMORY", "KV_MAX_MEMORY"),
        ("KV_SLOWMS", "KV_SLOW_MS"),
        ("KV_REPLICA", "KV_REPLICAS"),
        ("KV_CLUSTER_SECRETS", "KV_CLUSTER_SECRET"),
        ("KV_SECRET_FILE", "KV_CLUSTER_SECRET_FILE"),
        ("KV_HTTPBIND", "KV_HTTP_BIND"),
    ],
)
def test_a_misspelt_variable_has_a_nearest_one(name: str, nearest: str) -> None:
    assert misspelt({name: "1", "KV_POLICY": "noeviction", "POLCY": "1"}) == {name: nearest}


def test_what_is_heeded_or_like_nothing_is_not_misspelt() -> None:
    heeded = [setting.variable for _, setting in settings()] + ["KV_FAST", "KV_SERVER", "KV_CLUSTER_SECRET_FILE"]
    assert misspelt(dict.fromkeys([*heeded, "KV_", "KV_TEAM", "KV", "PATH"], "1")) == {}


def test_a_fault_in_the_environment_is_told_as_such(file: str) -> None:
    message = refusal(["3331", file], {"KV_MAX_MEMORY": "lots"})
    assert message.startswith("KV_MAX_MEMORY 'lots': isn't a size")


@pytest.mark.parametrize(
    ("option", "text", "complaint"),
    [
        ("--max-memory", str(MEMORY_MIN_BYTES - 1), "is less than a node needs: at least 48MiB"),
        ("--max-memory", str(MEMORY_MIN_BYTES), None),
        ("--max-memory", str(MEMORY_MIN_BYTES + 1), None),
        ("--max-memory", "4GiB", None),
        ("--max-memory", str(4096 * MIB + 1), "more than this process may take: 4096MiB (a file): lower it"),
        (
            "--reply-ttl",
            "5.999",
            "isn't a number of seconds from 6 to 60 (a client's last try leaves 4.45 s",
        ),
        ("--reply-ttl", "6", None),
        ("--reply-ttl", "6.001", None),
        ("--http", "0", "--http '0': isn't a port: a number from 1 to 65535"),
        ("--http", "65535", None),
        ("--http", "3331", "--http 3331 is also PORT"),
        ("--http-bind", "localhost", "isn't an IPv4 or IPv6 address"),
        ("--http-bind", "[::1", "isn't an IPv4 or IPv6 address"),
        ("--http-bind", "::1]", "isn't an IPv4 or IPv6 address"),
        ("--slow-ms", "60001", "isn't a number of milliseconds from 0 to 60000"),
        ("--slow-ms", "0.5", "isn't a number of milliseconds"),
        ("--reply-ttl", "59.999", None),
        ("--reply-ttl", "60", None),
        ("--reply-ttl", "60.001", "isn't a number of seconds from 6 to 60 "),
        ("--reply-ttl", "nan", "isn't a number of seconds"),
        ("--reply-ttl", "inf", "isn't a number of seconds"),
        ("--reply-ttl", "-6", "isn't a number of seconds"),
        ("--reply-ttl=-6", None, "isn't a number of seconds"),
        ("--max-in-flight", "0", "isn't a number from 1 to 65536"),
        ("--max-in-flight", "1", None),
        ("--max-in-flight", "4095", None),
        ("--max-in-flight", "4096", None),
        ("--max-in-flight", "4097", "half of --max-memory 128MiB: say at most 4096"),
        ("--max-in-flight", str(IN_FLIGHT_MAX + 1), "isn't a number from 1 to 65536"),
        ("--max-in-flight", "1.5", "isn't a number from"),
        ("--max-in-flight", "x", "isn't a number from"),
        ("--trust-refusals", "true", "isn't one of yes, no"),
        ("--replicas", "0", "isn't a number from 1 to 8"),
        ("--replicas", "8", None),
        ("--replicas", "9", "isn't a number from 1 to 8"),
        ("--leave-timeout", "0", None),
        ("--leave-timeout", "3600", None),
        ("--leave-timeout", "3600.1", "isn't a number of seconds from 0 to 3600"),
        ("--leave-timeout", "-1", "isn't a number of seconds from 0 to 3600"),
        ("--policy", "lru", "--policy 'lru': isn't one of allkeys-lru, noeviction"),
        ("--policy", "", "--policy '': isn't one of"),
        ("--bind", "localhost", "isn't an IPv4 or IPv6 address"),
        ("--bind", "127.0.0.1:3331", "isn't an IPv4 or IPv6 address"),
        ("--bind", "127.0.0", "isn't an IPv4 or IPv6 address"),
        ("--bind", "::1", "--bind ::1 is IPv6, but others reach 127.0.0.1:3331 at 127.0.0.1: bind an IPv4"),
        ("--advertise", "127.0.0.1", "--advertise '127.0.0.1': the port is missing"),
        ("--advertise", "127.0.0.1:0", "'0' isn't a port: a number from 1 to 65535"),
        ("--advertise", "127.0.0.1:65535", "127.0.0.1:65535 (--advertise) isn't in "),
        ("--allow", "", "--allow '': '' isn't a network: write 10.0.0.0/8, fd00::/8 or an address"),
        ("--allow", "10.0.0.1/8", "has bits set past the first 8: write 10.0.0.0/8 or 10.0.0.1"),
        ("--allow", "10.0.0.0/8,kv1", "'kv1' isn't a network"),
        ("--admin-allow", "10.0.0.0/33", "what follows the / isn't a number of bits from 0 to 32"),
        ("--log-level", "INFO", "isn't one of debug, info, warning, error"),
        ("--log-format", "xml", "isn't one of text, json"),
        ("--log-format", "a\nb", "--log-format 'a\\nb': isn't one of"),
    ],
)
def test_limits(file: str, option: str, text: str | None, complaint: str | None) -> None:
    arguments = ["3331", file, option] + ([] if text is None else [text])
    if complaint is None:
        parse(arguments, {})
    else:
        assert complaint in refusal(arguments)


def test_administrators_must_be_clients(file: str) -> None:
    arguments = ["3331", file, "--allow", "10.0.0.0/8,fd00::/8", "--admin-allow"]
    parse([*arguments, "10.1.0.0/16,fd00::1"], {})
    assert refusal([*arguments, "10.1.0.0/16,192.0.2.7"]) == (
        "--admin-allow 192.0.2.7 isn't within --allow 10.0.0.0/8,fd00::/8: add it there"
    )
    assert "--admin-allow 0.0.0.0/0 isn't within" in refusal([*arguments, "0.0.0.0/0"])
    assert "isn't within --allow ::1" in refusal(["3331", file], {"KV_ALLOW": "::1", "KV_ADMIN_ALLOW": "10.0.0.0/8"})


def test_the_http_server_needs_its_share_of_memory_and_is_bound_as_the_node_is(file: str) -> None:
    least = str(MEMORY_MIN_HTTP_BYTES)
    options = parse(["3331", file, "--http", "9100", "--max-memory", least, "--bind", "127.0.0.1"], {})
    assert options.http_bind == "127.0.0.1"
    message = refusal(["3331", file, "--http", "9100", "--max-memory", str(MEMORY_MIN_HTTP_BYTES - 1)])
    assert message.endswith("is less than a node with --http needs: at least 60MiB")


@pytest.mark.parametrize("text", ["a:80", "a,,b", "http://a", "a/b", "*.a", "a b", "[::1]", "10.0.0.1", "x" * 254, ","])
def test_names_for_http_are_host_names(file: str, text: str) -> None:
    assert refusal(["3331", file, "--http-host", text]) == (
        f"--http-host {text!r}: isn't a host name, several with commas between, or *: ports are left out"
    )


def test_names_for_http_are_few(file: str) -> None:
    names = [f"n{number}" for number in range(64)]
    assert parse(["3331", file, "--http-host", ",".join(names)], {}).http_hosts == tuple(names)
    assert refusal(["3331", file], {"KV_HTTP_HOST": ",".join([*names, "n"])}).endswith("names more than 64")


def test_as_many_in_flight_as_there_can_be(file: str) -> None:
    arguments = ["3331", file, "--max-memory", "2GiB", "--max-in-flight", str(IN_FLIGHT_MAX)]
    assert parse(arguments, {}).max_in_flight == IN_FLIGHT_MAX


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: PORT (see --help)"),
        (["3331"], "the following arguments are required: SERVERS_FILE, or --join (see --help)"),
        (["3331", "FILE", "more"], "unexpected argument 'more' (see --help)"),
        (["3331", "FILE", "--max-mem", "64MB"], "unknown option '--max-mem' (is --max-memory meant?)"),
        (["3331", "FILE", "--max-memroy=64MB"], "unknown option '--max-memroy' (is --max-memory meant?)"),
        (["3331", "FILE", "-x"], "unknown option '-x' (see --help)"),
        (["3331", "FILE", "--policy"], "argument --policy: expected one argument (see --help)"),
        (["x", "FILE"], "PORT: 'x' isn't a port: a number from 1 to 65535"),
        (["", "FILE"], "PORT: '' isn't a port: a number from 1 to 65535"),
        (["0", "FILE"], "PORT: '0' isn't a port: a number from 1 to 65535"),
        (["-1", "FILE"], "PORT: '-1' isn't a port: a number from 1 to 65535"),
        (["65536", "FILE"], "PORT: '65536' isn't a port: a number from 1 to 65535"),
        (
            ["65535", "FILE"],
            "no server in FILE has port 65535 (it has 3331, 3332): add this node or change PORT",
        ),
        (["1", "FILE"], "no server in FILE has port 1 (it has 3331, 3332): add this node or change PORT"),
        (["3331", "no-such-file"], "can't read the servers file 'no-such-file': No such file or directory"),
    ],
)
def test_a_wrong_command_line(file: str, arguments: list[str], complaint: str) -> None:
    assert refusal([file if word == "FILE" else word for word in arguments]) == complaint.replace(
        "FILE has", f"{file} has"
    )


def test_a_fault_in_the_servers_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    path.write_text("127.0.0.1:3331\nkv2\n")
    assert refusal(["3331", str(path)]) == f"{path}:2: 'kv2': the port is missing: write host:port"


def test_an_ipv6_node_binds_the_ipv6_wildcard(file: str) -> None:
    chosen = parse(["3332", file, "--advertise", "[::1]:3332"], {})
    assert chosen.me == Server("::1", 3332, "::1")
    assert chosen.bind == "::"
    assert "is IPv4, but others reach [::1]:3332" in refusal(
        ["3332", file, "--advertise", "[::1]:3332", "--bind", "127.0.0.1"]
    )


@pytest.mark.parametrize(
    ("lines", "bind"),
    [
        ("no-such-a:1 no-such-b:1", "0.0.0.0"),
        ("no-such-a:1 [::1]:2", "::"),
        ("no-such-a:1 [::1]:2 127.0.0.1:3", "0.0.0.0"),
    ],
)
def test_a_node_whose_name_has_no_address_yet_binds_as_the_others_are_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, bind: str
) -> None:
    path = tmp_path / "servers.txt"
    path.write_text(lines.replace(" ", "\n"))

    def lookup(host: str) -> list[str]:
        if host.startswith("no-such"):
            raise OSError(-2, "Name or service not known")
        return [host]

    monkeypatch.setattr(options.servers, "lookup_host", lookup)
    chosen = parse(["1", str(path), "--advertise", "no-such-a:1"], {})
    assert (chosen.me, chosen.bind) == (Server("no-such-a", 1, ""), bind)
    assert parse(["1", str(path), "--advertise", "no-such-a:1", "--bind", "::1"], {}).bind == "::1"


def test_a_published_port_may_differ_from_the_one_served_on(file: str) -> None:
    chosen = parse(["4000", file, "--advertise", "127.0.0.1:3331"], {})
    assert (chosen.port, chosen.me) == (4000, HOME)


def test_bind_says_which_of_two_lines_of_this_machine_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    path.write_text("127.0.0.1:3331\n127.0.0.2:3331\n")
    assert "say which is this node by --advertise" in refusal(["3331", str(path)])
    assert parse(["3331", str(path), "--bind", "127.0.0.2"], {}).me.host == "127.0.0.2"


def test_the_manual_names_every_setting_with_its_variable_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    manual = capsys.readouterr().out
    words = " ".join(manual.split())
    for _, setting in settings():
        assert f"{setting.option} {setting.metavar}" in words
        assert f"[{setting.variable}]" in words
        assert f"Default: {setting.default_words}." in words
        assert setting.default is None or f"Default: {setting.default}" in words
    assert "-h, --help print this and leave" in words
    for heading in (
        "Memory:",
        "Network:",
        "Requests:",
        "Cluster:",
        "Logging:",
        "Environment:",
        "Signals:",
        "Exit status:",
    ):
        assert f"\n{heading}\n" in manual
    assert max(map(len, manual.splitlines())) <= 80


def test_the_secret_comes_from_the_environment_or_a_file_that_it_names(file: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET.encode())
    by_variable, by_file = {"KV_CLUSTER_SECRET": SECRET}, {"KV_CLUSTER_SECRET_FILE": str(path)}
    for environment in (by_variable, by_file):
        given = parse(["3331", file], environment)
        assert given.cluster_secret == SECRET.encode()
        assert SECRET not in repr(given)
    assert parse(["3331", file], dict.fromkeys((*by_variable, *by_file), "")).cluster_secret is None
    assert "are both set" in refusal(["3331", file], by_variable | by_file)


def test_a_short_secret_is_refused_with_how_to_make_one(file: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("swordfish\n")
    for variable, text in (("KV_CLUSTER_SECRET", "swordfish"), ("KV_CLUSTER_SECRET_FILE", str(path))):
        assert refusal(["3331", file], {variable: text}) == (
            f"{variable}: a secret has at least 16 bytes, and this one 9:"
            " make one by `head -c 24 /dev/urandom | base64`"
        )


def test_a_secret_file_that_is_not_there_is_told(file: str) -> None:
    message = refusal(["3331", file], {"KV_CLUSTER_SECRET_FILE": "no-such-file"})
    assert message == "KV_CLUSTER_SECRET_FILE: can't read it: No such file or directory"


def test_the_secret_is_no_option(file: str) -> None:
    assert "unknown option" in refusal(["3331", file, "--cluster-secret", "x"])


def test_no_two_settings_share_a_name() -> None:
    options_and_variables = [name for _, setting in settings() for name in (setting.option, setting.variable)]
    assert len(options_and_variables) == len(set(options_and_variables))


@pytest.mark.parametrize("given", [["--on-partition", "serve"], ["--on-partition=refuse"]])
def test_an_option_that_is_no_more_says_what_to_do(file: str, given: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^--on-partition is no more: .* docs/operations\.md$"):
        options.parse(["3331", file, *given], {})


def test_so_does_its_variable_unless_it_is_empty(file: str) -> None:
    with pytest.raises(UsageError, match=r"^KV_ON_PARTITION is no more: "):
        options.parse(["3331", file], {"KV_ON_PARTITION": "refuse"})
    options.parse(["3331", file], {"KV_ON_PARTITION": ""})

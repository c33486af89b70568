"""What most commands of the client do, a function each: given a client and the arguments, the exit status.

A KVError or OSError is for the caller to tell.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final

from app.client import BadAnswer, BadServer, Client, KVError, Timeout
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tools import cli

# Of a value in a file: one byte more than a datagram takes is enough to be refused.
READ_MAX_BYTES: Final = DATAGRAM_MAX_BYTES

# Settings as they are typed, and as nodes call them.
_SETTINGS: Final = {"log-level": "log_level", "slow-ms": "slow_ms"}

# The store.


def run_get(client: Client, given: Namespace) -> int:
    value, version = client.get(given.key)
    if given.json:
        text, encoding = _as_text(value)
        cli.print_json({**_shown(given.key), "value": text, "encoding": encoding, "version": version})
    else:
        cli.write_value(value)
    if given.show_version:
        cli.remark(f"version {version}")
    return cli.OK


def run_put(client: Client, given: Namespace) -> int:
    given.is_cut = False
    if given.file is not None or given.value == b"-":
        given.value = cli.read_input(given.file, READ_MAX_BYTES + 1)
        given.is_cut = len(given.value) > READ_MAX_BYTES
    client.put(given.key, given.value, given.version)
    if given.json:
        cli.print_json({**_shown(given.key), "bytes": len(given.value), "version": given.version})
    return cli.OK


def run_remove(client: Client, given: Namespace) -> int:
    client.remove(given.key)
    if given.json:
        cli.print_json({**_shown(given.key), "removed": True})
    return cli.OK


# The nodes.


def run_ping(client: Client, given: Namespace) -> int:
    answers: list[dict[str, object]] = []
    for server in client.servers:
        started = time.perf_counter()
        try:
            client.ping(server.name)
        except (Timeout, BadServer) as error:
            answers.append({"server": server.name, "alive": False})
            cli.complain("kv.py", error)
            continue
        took_ms = round((time.perf_counter() - started) * 1000, 3)
        answers.append({"server": server.name, "alive": True, "ms": took_ms})
        if not given.json:
            cli.say(f"{server.name} answers in {took_ms:.1f} ms")
    if given.json:
        cli.print_json(answers)
    return cli.OK if all(answer["alive"] for answer in answers) else cli.NO_ANSWER


def run_pid(client: Client, given: Namespace) -> int:
    pid = client.get_pid()
    if given.json:
        cli.print_json({"pid": pid})
    else:
        cli.say(pid)
    return cli.OK


def run_status(client: Client, given: Namespace) -> int:
    from tools.kv import status  # here and below: not needed by most commands

    return _tell(given, client.status(), lambda known: known, status.table if given.verbose else status.summary)


def run_slowlog(client: Client, given: Namespace) -> int:
    from tools.kv import slowlog

    return _tell(given, client.slow_requests(), lambda slow: slow, slowlog.table)


def run_members(client: Client, given: Namespace) -> int:
    if given.count:
        count = client.membership_count()
        if given.json:
            cli.print_json({"count": count})
        else:
            cli.say(count)
        return cli.OK
    from tools.kv import status

    return _tell(given, client.status(), status.members, status.members_table)


def run_found(client: Client, given: Namespace) -> int:
    answer = client.found()
    if given.json:
        cli.print_json(answer)
    elif answer.get("founded"):
        cli.say(f"founded: {' '.join(map(str, answer.get('members', ())))}")
    if not answer.get("founded"):
        cli.complain("kv.py", f"{client.servers[0].name}: {answer.get('why_not')}")
        return cli.FAILED
    return cli.OK


def run_config(client: Client, given: Namespace) -> int:
    changes = {_SETTINGS[given.name]: given.setting} if given.action == "set" else {}
    answers: list[dict[str, object]] = []
    codes = []
    for server in client.servers:
        answer, code, fault = _configured(client, given, server.name, changes)
        codes.append(code)
        answers.append({"server": server.name, **answer} | ({"error": fault} if fault else {}))
        if fault:
            cli.complain("kv.py", fault if server.name in fault else f"{server.name}: {fault}")
        elif not given.json:
            shown = [f"{name} {answer.get(field)}" for name, field in _SETTINGS.items() if given.name in (None, name)]
            cli.say(f"{server.name}  {'  '.join(shown)}")
    if given.json:
        cli.print_json(answers)
    return max(codes)


def _configured(
    client: Client, given: Namespace, server: str, changes: dict[str, str]
) -> tuple[dict[str, Any], int, str]:
    """What one node says of its settings, the exit status, and why nothing was done."""
    try:
        answer = client.config(changes, server)
    except KVError as error:
        from tools.kv.errors import told

        fault = told(error, given, [server])
        return {"code": fault.code}, fault.status, fault.text
    why_not = str(answer.pop("why_not", ""))
    for name, field in _SETTINGS.items():  # in the words that were typed
        why_not = why_not.replace(field, name)
    return answer, cli.FAILED if why_not else cli.OK, why_not


def run_shutdown(client: Client, given: Namespace) -> int:
    client.shutdown()
    if given.json:
        cli.print_json({"server": client.servers[0].name, "answered": True})
    return cli.OK


# What is shown.


def _tell(
    given: Namespace,
    answer: dict[str, Any],
    as_data: Callable[[dict[str, Any]], object],
    as_lines: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Print what a node tells of itself, for a program or for a person. BadAnswer when it is of another form."""
    try:
        if given.json:
            cli.print_json(as_data(answer))
        else:
            cli.say(*as_lines(answer))
    except (AttributeError, LookupError, TypeError, ValueError):
        raise BadAnswer(f"{given.command}: the answer is not of the form that this program knows") from None
    return cli.OK


def _shown(key: bytes) -> dict[str, object]:
    """A key in JSON."""
    text, encoding = _as_text(key)
    return {"key": text, "key_encoding": encoding}


def _as_text(data: bytes) -> tuple[str, str]:
    """Bytes as a text that JSON can hold, and how to make bytes of it again: "utf-8" or "base64"."""
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        import base64

        return base64.b64encode(data).decode(), "base64"

"""What the command-line client's commands do, a function each: given a client and the arguments, the exit status.

A KVError or OSError is for the caller to tell.
"""

import base64
import os
import sys
import time
from argparse import Namespace

from app.client import BadServer, Client, Timeout
from app.wire.protocol import DATAGRAM_MAX_BYTES
from tools import cli
from tools.kv import bench, cluster, slowlog, status

# The store.


def run_get(client: Client, given: Namespace) -> int:
    value, version = client.get(given.key)
    if given.json:
        try:
            text, encoding = value.decode(), "utf-8"
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(value).decode(), "base64"
        cli.print_json({"key": os.fsdecode(given.key), "value": text, "encoding": encoding, "version": version})
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    if given.show_version:
        print(f"version {version}", file=sys.stderr)
    return cli.OK


def run_put(client: Client, given: Namespace) -> int:
    value = given.value
    # One byte past what a datagram takes is enough to be refused.
    if given.file is not None:
        with open(given.file, "rb") as file:
            value = file.read(DATAGRAM_MAX_BYTES + 1)
    elif value == b"-":
        value = sys.stdin.buffer.read(DATAGRAM_MAX_BYTES + 1)
    client.put(given.key, value, given.version)
    if given.json:
        cli.print_json({"key": os.fsdecode(given.key), "bytes": len(value), "version": given.version})
    return cli.OK


def run_remove(client: Client, given: Namespace) -> int:
    client.remove(given.key)
    if given.json:
        cli.print_json({"key": os.fsdecode(given.key), "removed": True})
    return cli.OK


def run_bench(client: Client, given: Namespace) -> int:
    result = bench.measure(client, given.seconds, given.keys, given.value_size, given.batch)
    if given.json:
        cli.print_json(result)
    else:
        print(bench.table(result))
    return cli.FAILED if result["wrong"] else cli.OK


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
            print(f"{server.name} answers in {took_ms:.1f} ms")
    if given.json:
        cli.print_json(answers)
    return cli.OK if all(answer["alive"] for answer in answers) else cli.NO_ANSWER


def run_pid(client: Client, given: Namespace) -> int:
    pid = client.get_pid()
    if given.json:
        cli.print_json({"pid": pid})
    else:
        print(pid)
    return cli.OK


def run_status(client: Client, given: Namespace) -> int:
    known = client.status()
    if given.json:
        cli.print_json(known)
    else:
        print(status.table(known))
    return cli.OK


def run_slowlog(client: Client, given: Namespace) -> int:
    slow = client.slow_requests()
    if given.json:
        cli.print_json(slow)
    else:
        print(slowlog.table(slow))
    return cli.OK


def run_members(client: Client, given: Namespace) -> int:
    if given.count:
        count = client.membership_count()
        if given.json:
            cli.print_json({"count": count})
        else:
            print(count)
        return cli.OK
    known = client.status()
    if given.json:
        cli.print_json(status.members(known))
    else:
        print(status.members_table(known))
    return cli.OK


def run_wait_ready(client: Client, given: Namespace) -> int:
    with cluster.Fleet([server.name for server in client.servers], given.given_only) as fleet:
        return cluster.wait_ready(fleet, given.timeout, given.members, given.json)


def run_wipe(client: Client, given: Namespace) -> int:
    with cluster.Fleet([server.name for server in client.servers], given.given_only) as fleet:
        return cluster.wipe(fleet, given.yes, given.json)


def run_found(client: Client, given: Namespace) -> int:
    answer = client.found()
    if given.json:
        cli.print_json(answer)
    elif answer.get("founded"):
        print(f"founded: {' '.join(map(str, answer.get('members', ())))}")
    if not answer.get("founded"):
        cli.complain("kv.py", f"{client.servers[0].name}: {answer.get('why_not')}")
        return cli.FAILED
    return cli.OK


def run_shutdown(client: Client, given: Namespace) -> int:
    client.shutdown()
    if given.json:
        cli.print_json({"server": client.servers[0].name, "answered": True})
    return cli.OK

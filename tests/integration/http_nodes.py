"""Nodes of tests/support/nodes.py that show themselves over HTTP."""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tests.support.nodes import Node, await_count, cluster
from tests.support.polling import poll
from tests.support.ports import free_port


def url(node: Node, path: str = "/") -> str:
    return f"http://{node.host}:{node.environment['KV_HTTP']}{path}"


def fetch(node: Node, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url(node, path), timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def status(node: Node) -> dict[str, Any]:
    """/status.json; empty when nothing answers."""
    code, body = fetch(node, "/status.json")
    return json.loads(body) if code == 200 else {}


def is_settled(node: Node) -> bool:
    """Whether it finds the cluster whole."""
    told = status(node)
    return bool(told) and bool(told["whole"])


@contextmanager
def watched_cluster(directory: Path, count: int, arguments: Sequence[str] = ()) -> Iterator[list[Node]]:
    """Running nodes, each with an HTTP port of its own, that have found each other."""
    with cluster(directory, count, arguments=("--bind", "127.0.0.1", *arguments)) as nodes:
        for node in nodes:
            node.environment["KV_HTTP"] = str(free_port())
            node.start()
        await_count(nodes, count)
        poll(lambda: all(fetch(node, "/ready")[0] == 200 for node in nodes))
        poll(lambda: all(is_settled(node) for node in nodes))
        yield nodes

"""Carries a command out with a client, and tells what went wrong."""

import importlib
from argparse import Namespace
from collections.abc import Sequence

from app.client import Client, KVError
from tools import cli


def execute(given: Namespace, servers: Sequence[str]) -> int:
    """The exit status. `given`: the arguments, of which `run` names a module and its function."""
    module, function = given.run.split(".")
    run = getattr(importlib.import_module(f"tools.kv.{module}"), function)
    try:
        with Client(
            servers,
            # One request needs no table of slots.
            slot_aware=given.command == "bench" and not given.plain,
            timeouts_ms=cli.tries_ms(given.timeout),
            timeout_s=max(given.timeout, 0.001),  # wait-ready takes 0, too, and has the client ask nothing
        ) as client:
            return int(run(client, given))
    except KVError as error:
        from tools.kv.errors import told

        fault = told(error, given, servers)
        if given.json:
            cli.print_json({"error": fault.text, "code": fault.code})
        cli.complain("kv.py", fault.text)
        return fault.status

"""kv.py servers, add-server, remove-server: which servers belong to the cluster, and have one do so, or no more.

Each node goes by its own servers file, as it has last read it, until a server is added or removed by a command. So each
is asked, and told is how many know of a server: a new one is to be started when all do.

A change is the coordinator's to make. It is told again and again until it is done, as another node may become the
coordinator meanwhile, who knows nothing of it.
"""

import time
from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Final

from app.client import BadAnswer, Client, KVError
from app.wire.protocol import PLACE_DIGITS, PLACE_NOBODY
from tools import cli
from tools.kv import status
from tools.kv.cluster import Fleet, Survey

ABSENT = "absent"
UP = ("alive", "suspect")
POLL_S: Final = 0.2
# How long a node is waited for (ms) before another one is asked who is the coordinator now.
CHANGE_TIMEOUTS_MS: Final = (150, 450, 1350)


@dataclass(slots=True)
class Told:
    """What the nodes that were asked say of one server."""

    state: str
    known_to: int = 0
    silent_s: float | None = None  # of an absent one; None: nobody has heard it since its own start
    is_founder: bool = False


def told(survey: Survey) -> dict[str, Told]:
    """By server, in the order of the first node's answer. BadAnswer if an answer is of another form."""
    found: dict[str, Told] = {}
    try:
        for answer in survey.answers.values():
            rows = status.members(answer)
            absent = [str(row["address"]) for row in rows if row["state"] == ABSENT]
            silent_s = dict(zip(absent, map(_seconds, answer.get("absent_s", ())), strict=False))
            for row in rows:
                one = found.setdefault(str(row["address"]), Told(str(row["state"])))
                one.known_to += 1
                _add(one, str(row["state"]), silent_s.get(str(row["address"])))
            for digit in str(answer.get("founders", "")).replace(PLACE_NOBODY, ""):
                found[str(rows[PLACE_DIGITS.index(digit)]["address"])].is_founder = True
    except (AttributeError, LookupError, TypeError, ValueError):
        raise BadAnswer("servers: an answer is not of the form that this program knows") from None
    return found


def _seconds(told: Any) -> float | None:
    return None if told is None else float(told)


def _add(one: Told, state: str, silent_s: float | None) -> None:
    if one.state == ABSENT and state != ABSENT:  # somebody has it in its view
        one.state = state
    if silent_s is not None:
        one.silent_s = silent_s if one.silent_s is None else min(one.silent_s, silent_s)


def founders_of(survey: Survey) -> int:
    """How many servers the cluster was founded by, those that were removed included; 0: views do not list servers."""
    return max((len(str(answer.get("founders", ""))) for answer in survey.answers.values()), default=0)


def lines(found: dict[str, Told], asked: int, founders: int = 0) -> list[str]:
    """For people. `founders`: how many there are, if views list who belongs."""
    rows = [
        [name, one.state, one.is_founder, f"{one.known_to} of {asked}", _silence(one) if one.state == ABSENT else ""]
        for name, one in found.items()
    ]
    columns = ["server", "state", "founder", "known to", "silent for"]
    if not founders:
        return status.grid(columns[:2] + columns[3:], [row[:2] + row[3:] for row in rows], left=("server", "state"))
    up = sum(one.is_founder and one.state in UP for one in found.values())
    told = f"{up} of {founders} founders {'is' if up == 1 else 'are'} up"
    return [
        *status.grid(columns, rows, left=("server", "state")),
        f"{told}; half of them must be, for the cluster to go on",
    ]


def _silence(one: Told) -> str:
    return "never heard" if one.silent_s is None else f"{one.silent_s:.1f} s"


def run_servers(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    with Fleet([server.name for server in client.servers], given.given_only) as fleet:
        survey = fleet.survey()
    for fault in survey.faults.values():
        cli.complain("kv.py", fault)
    if not survey.answers:
        return cli.NO_ANSWER
    found, asked = told(survey), len(survey.answers)
    if given.json:
        rows: list[dict[str, Any]] = [
            {
                "server": name,
                "state": one.state,
                "founder": one.is_founder,
                "known_to": one.known_to,
                "silent_s": one.silent_s,
            }
            for name, one in found.items()
        ]
        cli.print_json({"asked": asked, "founders": founders_of(survey), "servers": rows})
    else:
        cli.say(*lines(found, asked, founders_of(survey)))
    differs = [name for name, one in found.items() if one.known_to != asked]
    for name in differs:
        without = [node for node, answer in survey.answers.items() if name not in _names(answer)]
        cli.complain("kv.py", f"{name} is no server to {' '.join(without)}: compare the servers files, then kill -HUP")
    return cli.FAILED if differs else cli.OK


def _names(answer: dict[str, Any]) -> set[str]:
    return {str(row["address"]) for row in status.members(answer)}


def run_add_server(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    done = "belongs to the cluster: it can be started"
    return _change(client, given, {"add": given.target}, done, done)


def run_remove_server(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    was_done = "does not belong to the cluster"
    change = {"remove": given.target, "force": given.force}
    return _change(client, given, change, "belongs to the cluster no more", was_done)


def _change(client: Client, given: Namespace, change: dict[str, Any], done: str, was_done: str) -> int:
    """`done`: what is said of the server; `was_done`: if there was nothing to do."""
    deadline_s = time.monotonic() + given.timeout
    said = was_done
    names = [server.name for server in client.servers]
    while True:
        answer, fault = _put_to_coordinator(names, change)
        is_settled = answer is not None and (answer.get("done") or (answer.get("why_not") and not answer.get("passes")))
        if is_settled or time.monotonic() >= deadline_s:
            break
        said = done if answer is not None else said
        time.sleep(POLL_S)
    if answer is None:
        raise fault or BadAnswer(f"none of {' '.join(names)} knows of a coordinator")
    if given.json:
        cli.print_json(answer)
    elif answer.get("done"):
        cli.say(f"{given.target} {said}")
    if not answer.get("done"):
        cli.complain("kv.py", f"{given.target}: {answer.get('why_not') or 'is not done yet: say it again'}")
        return cli.FAILED if is_settled else cli.NOT_READY
    return cli.OK


def _put_to_coordinator(names: list[str], change: dict[str, Any]) -> tuple[dict[str, Any] | None, KVError | None]:
    """The coordinator's answer, or why there is none. It is asked by its own name, and, as that may mean nothing here,
    among the others. `names` gets those that are met: the server that was given may be the one that is removed."""
    fault = None
    for name in names:  # which may become longer meanwhile
        try:
            answer = _tell(name, change)
        except KVError as error:
            fault = error
            continue
        coordinator = str(answer.get("coordinator", ""))
        if answer.get("done") or coordinator in (str(answer.get("address")), name):
            return answer, None
        if coordinator and coordinator not in names:
            names.insert(names.index(name) + 1, coordinator)
    return None, fault


def _tell(server: str, change: dict[str, Any]) -> dict[str, Any]:
    with Client([server], slot_aware=False, timeouts_ms=CHANGE_TIMEOUTS_MS) as client:
        return client.change_servers(change)

"""What kv.py does with a whole cluster: ask every member, wait until it is whole, wipe it.

One node's word is not enough: a node that was just restarted or cut off is the one to ask about itself, and each knows
only its own links. So members are taken from the answers of the nodes given, and then asked each at its own address.
What makes a node say that it is not ready, or the cluster not whole, is in app/cluster/readiness.py.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Any, Final, Self

from app.client import BadAnswer, BadServer, Client, KVError, Timeout
from app.wire.protocol import SLOT_COUNT
from tools import cli
from tools.kv import status
from tools.kv.errors import silence

# How long one node is waited for (ms); it is asked again in the next round, if there is one.
STATUS_TIMEOUTS_MS: Final = (150, 450, 1350)
POLL_S: Final = 0.2


@dataclass(slots=True)
class Survey:
    """What everyone said: the status of each node that answered, by the name it was asked at; why others did not."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def epochs(self) -> set[tuple[object, object]]:
        return {(answer.get("origin"), answer.get("epoch")) for answer in self.answers.values()}


class Fleet:
    """Clients for single nodes, made as they are met."""

    def __init__(self, servers: Sequence[str], given_only: bool, timeout_s: float = inf) -> None:
        """`given_only`: ask none but these. `timeout_s`: wait for an answer no longer, if STATUS_TIMEOUTS_MS would."""
        self._tries_ms = cli.tries_ms(min(timeout_s, sum(STATUS_TIMEOUTS_MS) / 1000))
        self._servers = servers
        self._given_only = given_only
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.close()

    def survey(self) -> Survey:
        """Ask the servers given, then the members that they name and that have not answered yet."""
        survey = Survey()
        for name in self._servers:
            self._ask(name, survey)
        if not self._given_only:
            found = {address for answer in survey.answers.values() for address in member_addresses(answer)}
            # A server may be given by another name than its line in the servers file.
            for address in sorted(found - {str(answer.get("address")) for answer in survey.answers.values()}):
                if address not in survey.faults:
                    self._ask(address, survey)
        return survey

    def members(self) -> list[str]:
        """The members by the word of the first server given that answers; the servers given, if that is all that may be
        asked. Timeout when none does, BadAnswer."""
        if self._given_only:
            return list(self._servers)
        survey = Survey()
        for name in self._servers:
            self._ask(name, survey)
            if name in survey.answers:
                found = member_addresses(survey.answers[name])
                # The one that was asked may be known here by another name than its line in the servers file.
                return [name if address == survey.answers[name].get("address") else address for address in found] or [
                    name
                ]
        raise Timeout("; ".join(survey.faults.values()))

    def ask_each(self, names: Iterable[str], question: Callable[[Client], dict[str, Any]]) -> Survey:
        """Put a question to each of these nodes."""
        survey = Survey()
        for name in names:
            self._put(name, question, survey)
        return survey

    def _ask(self, name: str, survey: Survey) -> None:
        self._put(name, lambda client: _sound(client.status()), survey)

    def _put(self, name: str, question: Callable[[Client], dict[str, Any]], survey: Survey) -> None:
        try:
            if name not in self._clients:
                self._clients[name] = Client([name], slot_aware=False, timeouts_ms=self._tries_ms)
            survey.answers[name] = question(self._clients[name])
        except KVError as error:
            survey.faults[name] = str(error) if isinstance(error, Timeout | BadServer) else f"{name}: {error}"


def _sound(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, if what is looked at below is as it should be. BadAnswer if not."""
    try:
        member_addresses(answer)
        status.sentences(answer)
        hash((answer.get("address"), answer.get("origin"), answer.get("epoch")))
        sum(answer.get(what, 0) for what in ("reads", "writes"))
    except (AttributeError, LookupError, TypeError, ValueError):
        raise BadAnswer("status: the answer is not of the form that this program knows") from None
    return answer


def member_addresses(answer: dict[str, Any]) -> list[str]:
    """The members of the node's view; absent servers are none."""
    return [str(row["address"]) for row in status.members(answer) if row.get("state") != "absent"]


def faults(survey: Survey, members_min: int) -> list[str]:
    """What keeps the cluster from being whole; nothing when it is."""
    found = list(survey.faults.values())
    for name, answer in survey.answers.items():
        found += [f"{name}: {fault}" for fault in _faults_of(answer)]
    if len(survey.epochs()) > 1:
        found.append("the nodes go by different views")
    for name, answer in survey.answers.items():
        count = len(member_addresses(answer))
        if count < members_min:
            found.append(f"{name}: {count} of {members_min} members")
    return found or _between(survey)


def _between(survey: Survey) -> list[str]:
    """What the nodes' answers come to when each finds the cluster whole: all slots, if all members were asked."""
    by_address = {answer.get("address"): answer for answer in survey.answers.values()}
    if not _all_asked(survey):
        return []
    served = {what: sum(answer.get(what, 0) for answer in by_address.values()) for what in ("reads", "writes")}
    return [f"{count} of {SLOT_COUNT} slots open for {what}" for what, count in served.items() if count != SLOT_COUNT]


def _all_asked(survey: Survey) -> bool:
    asked = {answer.get("address") for answer in survey.answers.values()}
    return all(asked.issuperset(member_addresses(answer)) for answer in survey.answers.values())


def _faults_of(answer: dict[str, Any]) -> list[str]:
    """What keeps the cluster from being whole, by one node's word: its own sentences."""
    if "whole" not in answer:
        return ["does not say whether it is ready: another version, or another kind of node"]
    return [] if answer["whole"] else status.sentences(answer) or ["is not whole, and has no room to say why"]


def wait_ready(fleet: Fleet, timeout_s: float, members_min: int, as_json: bool) -> int:
    """Ask until the cluster is whole; the exit status. A change of what is missing is told on stderr meanwhile."""
    started = time.monotonic()
    told = ""
    while True:
        survey = fleet.survey()
        missing = faults(survey, members_min)
        waited_s = time.monotonic() - started
        if not missing or waited_s >= timeout_s:
            break
        if missing[0] != told:
            told = missing[0]
            cli.complain("kv.py", f"waiting: {told}")
        time.sleep(min(POLL_S, timeout_s - waited_s))
    if as_json:
        nodes = {name: {"epoch": answer.get("epoch")} for name, answer in survey.answers.items()}
        cli.print_json({"ready": not missing, "waited_s": round(waited_s, 3), "missing": missing, "nodes": nodes})
    if not missing:
        if not as_json:
            cli.say(_whole(survey))
        return cli.OK
    for line in missing:
        cli.complain("kv.py", f"not ready: {line}")
    return cli.NOT_READY if survey.answers else cli.NO_ANSWER


def _whole(survey: Survey) -> str:
    """What was found, by everyone's word."""
    count = len(survey.answers)
    answer = next(iter(survey.answers.values()))
    wanted = answer.get("copies_wanted", 1)
    copies = "1 copy" if wanted == 1 else f"{wanted} copies"
    nodes = "1 node" if count == 1 else f"{count} nodes"
    if not _all_asked(survey):
        nodes += f" asked of {len(member_addresses(answer))}"
    return f"ready: {nodes}, every slot where it is wanted and open for reads and writes, {copies} of each in sync"


def wipe(fleet: Fleet, is_sure: bool, as_json: bool, tries_ms: Sequence[int]) -> int:
    """Have every member drop the keys it is primary for; the exit status. `tries_ms`: how long each try of it is waited
    for."""
    before = fleet.survey()
    names = sorted(before.answers)
    if not names:
        for fault in before.faults.values():
            cli.complain("kv.py", fault)
        return cli.NO_ANSWER
    if not is_sure:
        if not sys.stdin.isatty():
            cli.complain("kv.py", "wipe drops every key: say --yes, or answer at a terminal")
            return cli.USAGE
        if cli.ask(f"Drop every key on {', '.join(names)}? Type yes: ") != "yes":
            cli.complain("kv.py", "nothing done")
            return cli.FAILED
    outcomes: list[dict[str, object]] = []
    codes = []
    for name in (*names, *before.faults):
        code, fault = _wipe_one(name, tries_ms)
        codes.append(code)
        outcomes.append({"server": name, "wiped": code == cli.OK} | ({"fault": fault} if fault else {}))
        if fault:
            cli.complain("kv.py", fault)
        elif not as_json:
            cli.say(f"{name} wiped")
    has_moved = fleet.survey().epochs() != before.epochs()
    if has_moved:
        cli.complain("kv.py", "slots moved meanwhile: some keys may be left; wipe again")
    if as_json:
        cli.print_json({"nodes": outcomes, "moved": has_moved})
    return max([*codes, cli.FAILED if has_moved else cli.OK])


def _wipe_one(name: str, tries_ms: Sequence[int]) -> tuple[int, str]:
    """An exit status, and what went wrong. A call for each node: no retry of one may wipe another."""
    try:
        with Client([name], slot_aware=False, timeouts_ms=tries_ms) as client:
            client.wipeout()
    except Timeout as error:
        return cli.NO_ANSWER, silence(error, "wipe", [name])
    except BadServer as error:
        return cli.NO_ANSWER, str(error)
    except KVError as error:
        return cli.FAILED, f"{name}: {error}"
    return cli.OK, ""


def run_wait_ready(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    with Fleet([server.name for server in client.servers], given.given_only) as fleet:
        return wait_ready(fleet, given.timeout, given.members, given.json)


def run_wipe(client: Client, given: Namespace) -> int:
    """The command; the exit status."""
    tries_ms = cli.tries_ms(given.timeout)
    with Fleet([server.name for server in client.servers], given.given_only) as fleet:
        return wipe(fleet, given.yes, given.json, tries_ms)

"""What the node knows, as the status page shows it: /status.json.

Everything here is read at the time of the question and steers nothing.
"""

import os
import time
from collections.abc import Iterable
from math import inf
from typing import Any, Final

from app import fast
from app.cluster.readiness import Readiness
from app.cluster.view import View
from app.http import figures
from app.http.observed import ObservedNode
from app.http.watch import SAMPLE_S, Answer, Watch
from app.version import VERSION
from app.wire.protocol import SLOT_COUNT

ABSENT: Final = "absent"  # a server that belongs and is in no view


class StatusReport:
    """Makes /status.json; what each field means is in docs/monitoring.md."""

    def __init__(self, node: ObservedNode, watch: Watch) -> None:
        self._node = node
        self._watch = watch
        self._process = {
            "address": str(node.options.me),
            "pid": os.getpid(),
            "started": round(node.started_unix_s, 3),
            "policy": node.options.policy,
            "replicas": node.options.replicas,
            "version": VERSION,
            "core": fast.CORE,
        }

    def as_dict(self) -> dict[str, Any]:
        """The whole, fit for JSON."""
        node = self._node
        readiness = node.readiness()
        view = node.view
        answers = self._watch.members()
        members = self._members(readiness, answers)
        place = {member["address"]: number for number, member in enumerate(members)}
        return {
            "time": round(time.time(), 3),
            "node": self._process,
            "ready": readiness.is_ready,
            "whole": readiness.is_whole,
            "reasons": readiness.reasons,
            "lacking": readiness.lacking,
            "cluster": _cluster(readiness),
            "members": members,
            "total": figures.total(answers[member["address"]] for member in members if member["vitals"] is not None),
            "slots": None if view is None else _slots(view, place),
            "memory": self._memory(),
            "history": {
                "interval_s": SAMPLE_S,
                "rate": [round(rate, 1) for rate in self._watch.rates],
                "p99_ms": [None if p99_s is None else round(p99_s * 1000, 3) for p99_s in self._watch.p99_s],
            },
            "changes": [change._asdict() for change in reversed(node.view_log.changes)],
            "slow": {
                "threshold_ms": None if node.slow_log.threshold_s == inf else node.slow_log.threshold_s * 1000,
                "total": node.slow_log.total,
            },
        }

    def _members(self, readiness: Readiness, answers: dict[str, Answer]) -> list[dict[str, Any]]:
        """Those of the view, the longest-standing first, then the servers that belong and are in none."""
        node, status = self._node, readiness.status
        me = str(node.options.me)
        servers = node.belonging
        rows = []
        for member in status.members:
            rows.append(
                {
                    "address": member.address,
                    "state": member.state,
                    "leaving": member.leaving,
                    "incarnation": str(member.incarnation),
                    "primary": member.primary_slots,
                    "backup": member.backup_slots,
                    "learner": member.learner_slots,
                }
            )
        listed = {member.address for member in status.members}
        rows += [{"address": server, "state": ABSENT} for server in servers if server not in listed]
        for row in rows:
            address = str(row["address"])
            row["me"] = address == me
            # Its place among the servers: what the page numbers and colours nodes by, since it hardly ever changes.
            row["line"] = servers.index(address) if address in servers else None
            row["link"] = None if address == me or address not in listed else address not in readiness.unlinked
            row["queued_bytes"] = node.links.queued_bytes(address)
            answer = (
                answers.get(address) if row["me"] or row["state"] != ABSENT else None
            )  # not what it said before it died
            row |= figures.row(*answer) if answer else figures.row(None, None)
        return rows

    def _memory(self) -> dict[str, int]:
        memory = self._node.memory()
        return {
            "resident_bytes": memory["resident_bytes"],
            "peak_bytes": memory["peak_resident_bytes"],
            "limit_bytes": self._node.options.max_memory_bytes,
            "store_bytes": memory["store_bytes"],
            "store_limit_bytes": memory["arena_limit_bytes"],
            "entries": memory["entries"],
            "evictions": memory["evictions"],
            "replies": memory["replies_remembered"],
            "replies_bytes": memory["replies_bytes"],
            "replies_limit_bytes": memory["replies_limit_bytes"],
        }


def _cluster(readiness: Readiness) -> dict[str, Any]:
    # The origin has 64 bits: more than a JSON number is sure to keep.
    return {"origin": str(readiness.status.cluster_id), **readiness.numbers()}


def _slots(view: View, place: dict[str, int]) -> dict[str, Any]:
    """By slot, as places in the list of members."""

    def places(nodes: Iterable[str]) -> list[int]:
        return [place[node] for node in nodes]

    return {
        "primary": places(view.primaries),
        "backups": [places(nodes) for nodes in view.backups],
        "learners": [places(view.learners(slot)) for slot in range(SLOT_COUNT)],
    }

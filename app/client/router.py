"""Which server to ask: the slot's primary where it is known and reachable, else any of those the caller named.

The table of primaries comes from STATUS, which every node answers. Its addresses are those of the servers file: names
that a client outside may not resolve, addresses that it can't reach, or, worse, that are somebody else's where the
client is (127.0.0.1 is everywhere). So a server is used for its slots only after it has proved, by its own STATUS
answer, which member of this very cluster it is: one of the servers that the caller named, behind whatever published
port, or one found at the address in the table. Nobody waits for a proof: probes are datagrams that travel beside the
requests, and until one is answered the requests go where they would without all this. Names are looked up in a thread
of their own, since a resolver can take seconds.

A server that does not answer loses its proof, so that one timeout, not one a request, is what its failure costs.

The table is only ever a hint: every node forwards what it does not own. Nothing in an answer tells that it was
forwarded, so an old table is noticed by a primary that fails, or when it is asked for again, after REFRESH_S.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from typing import Final

from app.client.address import Endpoint, numeric, resolve
from app.client.errors import BadServer
from app.client.table import Table
from app.wire.protocol import SLOT_COUNT

# The table is asked for this often (s) though nothing is wrong. After a change that went unnoticed, requests take a
# node's detour for that long; a node makes an answer in 0.6 ms, so 1000 clients take 6 % of one node's time in all.
REFRESH_S: Final = 10.0
# And at most this often, however much is wrong.
REFRESH_MIN_S: Final = 0.5

# A server without proof is asked again after these waits, doubled each time from the first to the last (s).
PROBE_MIN_S: Final = 0.5
PROBE_MAX_S: Final = 32.0
# Servers without proof asked at one time.
PROBES_MAX: Final = 8
# How long a probe is waited for (s); its answer has no hurry.
PROBE_TIMEOUT_S: Final = 1.0

# A name that did not resolve is looked up again after this (s).
LOOKUP_AGAIN_S: Final = 60.0

# Servers ever learned from tables, each of which may hold a socket: several generations of the largest cluster.
LEARNED_MAX: Final = 256

NOWHERE: Final = -1


def in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="kv-client-lookup", daemon=True).start()


class Router:
    """Servers by number: those given, then those learned. No sockets: the client sends the probes and brings answers.

    `wake_at`: when `targets` wants to be called again (infinity: never, the router is not slot-aware).
    `current`: the given server that is asked for what is not routed by slot.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        *,
        slot_aware: bool,
        current: int = 0,
        aside: Callable[[Callable[[], None]], None] = in_a_thread,
    ) -> None:
        """`aside` runs what may take long."""
        self.servers = list(servers)
        self.current = current
        self.wake_at = -inf if slot_aware else inf
        self.epoch = 0  # of the table
        self._given = range(len(servers))
        self._slot_aware = slot_aware
        self._by_slot = [NOWHERE] * SLOT_COUNT
        self._table: Table | None = None
        self._proven: dict[str, int] = {}  # member: server
        self._refreshed_at = -inf
        self._asked: dict[
            int, tuple[float, float]
        ] = {}  # server without proof: when it may be asked again, and the wait
        self._round = 0
        self._learned: dict[str, int] = {}  # address in a table: server
        self._lookup_again: dict[str, float] = {}
        self._found: deque[tuple[str, Endpoint]] = deque()
        self._aside = aside

    # Where a request goes.

    def primary(self, slot: int) -> int:
        """The proven server of the slot's primary, or NOWHERE."""
        return self._by_slot[slot]

    def others(self, refused: Collection[int] = ()) -> list[int]:
        """All servers that may be asked for anything, without those that refused."""
        pool = {*self._given, *self._proven.values()}
        return sorted(pool.difference(refused))

    def next_after(self, asked: int, refused: Collection[int] = ()) -> int:
        """The server that a retry goes to; another one than before, if there is any."""
        pool = self.others(refused) or list(self._given)
        return next((index for index in pool if index > asked), pool[0])

    # What became of it.

    def answered(self, index: int) -> None:
        """What was not routed by slot has been answered: stay with that server."""
        if index in self._given:
            self.current = index

    def failed(self, index: int, now: float) -> None:
        """The server did not answer, or its machine said that nothing listens there."""
        members = [member for member, server in self._proven.items() if server == index]
        if members or index in self._given:
            self.doubt(now)
        if members:
            for member in members:
                del self._proven[member]
            self._asked[index] = (now + PROBE_MIN_S, PROBE_MIN_S)
            self._rebuild()

    def doubt(self, now: float) -> None:
        """Something hints at a table that is out of date."""
        if self._slot_aware:
            self.wake_at = min(self.wake_at, max(now, self._refreshed_at + REFRESH_MIN_S))

    # Learning.

    def targets(self, now: float) -> list[int]:
        """The servers to send STATUS to now, each once; called when `wake_at` has come."""
        self._collect_lookups()
        targets: list[int] = []
        if now >= self._refreshed_at + REFRESH_MIN_S:
            self._refreshed_at = now
            self._round += 1
            proven = sorted(self._proven.values())
            targets.append(proven[self._round % len(proven)] if proven else self.current)
        due = [index for index in self._unproven() if self._asked.get(index, (-inf, 0.0))[0] <= now]
        for index in due[:PROBES_MAX]:
            wait_s = min(2 * self._asked.get(index, (0.0, PROBE_MIN_S / 2))[1], PROBE_MAX_S)
            self._asked[index] = (now + wait_s, wait_s)
            if index not in targets:
                targets.append(index)
        self.wake_at = min(now + REFRESH_S, self._next_probe_at(now))
        return targets

    def learn(self, index: int, table: Table | None, now: float) -> None:
        """A server has answered STATUS; None: with something else than a table."""
        if table is None or not table.is_member:
            return
        ours = self._table
        if ours is None or (table.origin != ours.origin and index in self._given):
            # The first one, or another cluster where the caller's servers are: all of it began anew.
            self._proven.clear()
            ours = None
        elif table.origin != ours.origin:
            return  # somebody else's node, at an address that is one of our members' elsewhere
        member = table.address
        if self._proven.get(member) not in self._given:
            self._proven[member] = index
        if self._proven[member] == index:
            self._asked.pop(index, None)
        if ours is None or table.epoch >= ours.epoch:
            self._table = table
            self.epoch = table.epoch
            self._meet({primary for primary in table.primaries if primary}, now)
        self._rebuild()
        self.wake_at = min(self.wake_at, self._next_probe_at(now))

    def _rebuild(self) -> None:
        primaries = self._table.primaries if self._table else ("",) * SLOT_COUNT
        self._by_slot = [self._proven.get(member, NOWHERE) for member in primaries]

    def _unproven(self) -> list[int]:
        """Servers that may be members and have not proved it. All of those given; else who has slots and no server."""
        proven = set(self._proven.values())
        given = [index for index in self._given if index not in proven]
        if self._table is None:
            return given
        wanted = {self._learned.get(member, NOWHERE) for member in self._table.primaries if member not in self._proven}
        return given + sorted(wanted - {NOWHERE} - proven - set(given))

    def _next_probe_at(self, now: float) -> float:
        return min((self._asked.get(index, (now, 0.0))[0] for index in self._unproven()), default=inf)

    def _meet(self, members: Iterable[str], now: float) -> None:
        """See to it that each member's address has a server, if it can have one."""
        names = []
        for member in sorted(members):
            if member in self._learned or len(self._learned) + len(self._lookup_again) >= LEARNED_MAX:
                continue
            server = numeric(member)
            if server is not None:
                self._add(member, server)
            elif self._lookup_again.get(member, -inf) <= now:
                self._lookup_again[member] = now + LOOKUP_AGAIN_S
                names.append(member)
        if names:
            self._aside(lambda: self._look_up(names))

    def _look_up(self, names: Sequence[str]) -> None:
        """In a thread: touches nothing but the queue, which is safe to append to, and the alarm, which may be lost."""
        for name in names:
            try:
                self._found.append((name, resolve(name)))
            except BadServer:
                continue
        self.wake_at = -inf

    def _collect_lookups(self) -> None:
        while self._found:
            name, server = self._found.popleft()
            self._lookup_again.pop(name, None)
            if name not in self._learned:
                self._add(name, server)

    def _add(self, member: str, server: Endpoint) -> None:
        known = {(one.family, one.address): index for index, one in enumerate(self.servers)}
        index = known.get((server.family, server.address))
        if index is None:
            index = len(self.servers)
            self.servers.append(server)
        self._learned[member] = index

"""Which server to ask: the slot's primary where it is known and reachable, else any of those the caller named.

The table of primaries comes from STATUS, which every node answers. Its addresses are those of the servers file: names
that a client outside may not resolve, addresses that it can't reach, or, worse, that are somebody else's where the
client is (127.0.0.1 is everywhere). So a server is used for its slots only after it has proved, by its own STATUS
answer, which member of this very cluster it is: one of the servers that the caller named, behind whatever published
port, or one found at the address in the table. Nobody waits for a proof: probes are datagrams that travel beside the
requests, and until one is answered the requests go where they would without all this. Names are looked up in a thread
of their own, since a resolver can take seconds: those in the table, and that of a server that has failed, which may be
somewhere else by now.

A server that does not answer loses its proof, so that one timeout, not one a request, is what its failure costs.

**Another cluster.** Tables of two clusters are never mixed. A learned server that belongs to another one is not used.
One that the caller gave may show that the whole cluster was begun anew, so the others that were given are asked again:
when none of them still belongs to the former, the client goes over; while one does, the server is left out, and there
is a `dispute`, which the client raises.

The table is only ever a hint: every node forwards what it does not own. Nothing in an answer tells that it was
forwarded, so an old table is noticed by a primary that fails, or when it is asked for again, after REFRESH_S.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
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

# A server without proof is asked again after these waits, doubled each time from the first to the last (s). While no
# server at all has proof, though members are known, all are asked after the first: there is nobody else to go on by.
PROBE_MIN_S: Final = 0.5
PROBE_MAX_S: Final = 32.0
# Servers without proof asked at one time.
PROBES_MAX: Final = 8
# How long a probe is waited for (s); its answer has no hurry.
PROBE_TIMEOUT_S: Final = 1.0

# What a server has said of its cluster is taken for what it would say now for this long (s).
WORD_FRESH_S: Final = 1.0

# A name in the table that did not resolve is looked up again after this (s); also any other that a resolver has kept so
# long without an answer.
LOOKUP_AGAIN_S: Final = 60.0
# The name of a server that fails, or that the caller gave and that has not resolved, is looked up this often (s).
LOOKUP_MIN_S: Final = 5.0

# Servers ever learned from tables, each of which may hold a socket: several generations of the largest cluster.
LEARNED_MAX: Final = 256

NOWHERE: Final = -1


def in_a_thread(work: Callable[[], None]) -> None:
    """Do it beside everything else; never, if the system has no more threads to give."""
    import threading  # not above: most programs that run for a moment have nothing to look up

    with suppress(RuntimeError):
        threading.Thread(target=work, name="kv-client-lookup", daemon=True).start()


class Router:
    """Servers by number: those given, then those learned. No sockets: the client sends the probes and brings answers.

    `wake_at`: when `targets` wants to be called again (infinity: never, the router is not slot-aware).
    `current`: the given server that is asked for what is not routed by slot.
    `disputed`: given servers of another cluster, while another given one belongs to the table's; see `dispute`.
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
        self._given = range(len(servers))
        self._slot_aware = slot_aware
        self._by_slot = [NOWHERE] * SLOT_COUNT
        self._table: Table | None = None
        self._proven: dict[str, int] = {}  # member: server
        # Given servers that say that they are of the table's cluster; when they last did.
        self._adherents: dict[int, float] = {}
        self._strangers: dict[int, int] = {}  # given servers that are of another; its origin
        self._unheard: set[int] = set()  # of them, those that have failed since they said so
        self.disputed: set[int] = set()
        self._refreshed_at = -inf
        # Servers without proof: when each may be asked again, and after what wait.
        self._asked: dict[int, tuple[float, float]] = {}
        self._round = 0
        self._learned: dict[str, int] = {}  # address in a table: server
        self._lookup_again: dict[str, float] = {}
        self._found: deque[tuple[str, Endpoint]] = deque()
        self._look_up_at: dict[int, float] = {}  # when a server's name may be looked up again
        self._found_again: deque[tuple[int, Endpoint | None]] = deque()
        self._unresolved = [index for index in self._given if not servers[index].address]
        self._aside = aside

    # Where a request goes.

    def primary(self, slot: int) -> int:
        """The proven server of the slot's primary, or NOWHERE."""
        return self._by_slot[slot]

    def others(self, refused: Collection[int] = ()) -> list[int]:
        """All servers that may be asked for anything, without those that refused."""
        pool = {*self._given, *self._proven.values()}
        return sorted(pool.difference(refused, self._unresolved, self._strangers))

    def next_after(self, asked: int, refused: Collection[int] = ()) -> int:
        """The server that a retry goes to; another one than before, if there is any."""
        pool = self.others(refused) or self.others()
        return next((index for index in pool if index > asked), pool[0])

    def dispute(self) -> str:
        """Which of the given servers are of different clusters, in words; to be called when some are `disputed`."""
        names = {index: self.servers[index].name for index in (*self.disputed, *self._adherents)}
        others = ", ".join(names[index] for index in sorted(self.disputed))
        return f"{others}: of another cluster than {', '.join(names[index] for index in sorted(self._adherents))}"

    # What became of it.

    def answered(self, index: int) -> None:
        """What was not routed by slot has been answered: stay with that server."""
        if index in self._given and index not in self._strangers:
            self.current = index

    def failed(self, index: int, now: float) -> None:
        """The server did not answer, or its machine said that nothing listens there."""
        self._adherents.pop(index, None)
        self._unheard.add(index)
        self.disputed = self.disputed - {index} if self._adherents else set()
        members = [member for member, server in self._proven.items() if server == index]
        if members or index in self._given:
            self.doubt(now)
        if members:
            for member in members:
                del self._proven[member]
            self._asked[index] = (now + PROBE_MIN_S, PROBE_MIN_S)
            self._rebuild()
        self._look_up_again(index, now)

    def doubt(self, now: float) -> None:
        """Something hints at a table that is out of date."""
        if self._slot_aware:
            self.wake_at = min(self.wake_at, max(now, self._refreshed_at + REFRESH_MIN_S))

    # Learning.

    def targets(self, now: float) -> list[int]:
        """The servers to send STATUS to now, each once; called when `wake_at` has come."""
        targets: list[int] = []
        if now >= self._refreshed_at + REFRESH_MIN_S:
            self._refreshed_at = now
            self._round += 1
            proven = sorted(self._proven.values())
            targets.append(proven[self._round % len(proven)] if proven else self.current)
            if self._is_in_doubt():
                targets = [*sorted(self._adherents)[:1], *sorted(self._strangers)[:PROBES_MAX]] or targets
        due_by = now + PROBE_MAX_S if self._has_nobody() else now
        due = [index for index in self._unproven() if self._due_at(index, -inf) <= due_by]
        due.sort(key=lambda index: self._due_at(index, -inf))
        longest_s = PROBE_MIN_S if self._has_nobody() else PROBE_MAX_S
        for index in due[:PROBES_MAX]:
            wait_s = min(2 * self._asked.get(index, (0.0, PROBE_MIN_S / 2))[1], longest_s)
            self._asked[index] = (now + wait_s, wait_s)
            if index not in targets:
                targets.append(index)
        refresh_s = REFRESH_MIN_S if self._is_in_doubt() else REFRESH_S
        self.wake_at = min(now + refresh_s, self._next_probe_at(now))
        return targets

    def learn(self, index: int, table: Table | None, now: float) -> None:
        """A server has answered STATUS; None: with something else than a table."""
        if table is None or not table.is_member:
            return
        if index in self._given:
            self._judge(index, table, now)
        ours = self._table
        if ours is not None and table.origin != ours.origin:
            return  # somebody else's node
        member = table.address
        if self._proven.get(member) not in self._given:
            self._proven[member] = index
        if self._proven[member] == index:
            self._asked.pop(index, None)
        if ours is None or table.epoch >= ours.epoch:
            self._table = table
            self._meet({primary for primary in table.primaries if primary}, now)
        self._rebuild()
        self.wake_at = min(self.wake_at, self._next_probe_at(now))

    def _judge(self, index: int, table: Table, now: float) -> None:
        """Whether a given server is of the cluster that the client speaks to; if that was begun anew, forget it."""
        ours = self._table
        self._unheard.discard(index)
        if ours is not None and table.origin != ours.origin:
            self._adherents.pop(index, None)
            self._strangers[index] = table.origin
            for member in [member for member, server in self._proven.items() if server == index]:
                del self._proven[member]
            if not self._is_begun_anew(ours, table):
                if any(now - since <= WORD_FRESH_S for since in self._adherents.values()):
                    self.disputed.add(index)
                if index == self.current:
                    self.current = self.next_after(index)
                self.doubt(now)
                self._rebuild()
                return
            self._proven.clear()
            self._table = None
            self._strangers = {one: origin for one, origin in self._strangers.items() if origin != table.origin}
        self._strangers.pop(index, None)
        self._adherents[index] = now
        self.disputed = self._strangers.keys() - self._unheard

    def _is_begun_anew(self, ours: Table, table: Table) -> bool:
        """Whether no given server is left of our cluster, and this one is of its servers file or all are of another."""
        if self._adherents:
            return False
        is_same_file = table.address in ours.servers or ours.address in table.servers
        return is_same_file or self._strangers.keys() >= set(self._given).difference(self._unresolved)

    def _has_nobody(self) -> bool:
        """Members are known, and none of them, given or found, can be asked."""
        return self._table is not None and not self._proven

    def _is_in_doubt(self) -> bool:
        """Some given server has just told of another cluster: the others are to be asked again."""
        return bool(self._strangers.keys() - self._unheard)

    def _rebuild(self) -> None:
        primaries = self._table.primaries if self._table else ("",) * SLOT_COUNT
        self._by_slot = [self._proven.get(member, NOWHERE) for member in primaries]

    def _unproven(self) -> list[int]:
        """Servers that may be members and have not proved it. All of those given; else who has slots and no server."""
        proven = set(self._proven.values())
        given = [index for index in self._given if index not in proven and self.servers[index].address]
        if self._table is None:
            return given
        wanted = {self._learned.get(member, NOWHERE) for member in self._table.primaries if member not in self._proven}
        return given + sorted(wanted - {NOWHERE} - proven - set(given))

    def _next_probe_at(self, now: float) -> float:
        return min((self._due_at(index, now) for index in self._unproven()), default=inf)

    def _due_at(self, index: int, if_never: float) -> float:
        """When the server is to be asked again; `if_never`: for one that was not asked yet."""
        return self._asked[index][0] if index in self._asked else if_never

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

    def _look_up_again(self, index: int, now: float) -> None:
        """A server fails, or has no address yet: see what its name resolves to by now."""
        if now < self._look_up_at.get(index, -inf):
            return
        self._look_up_at[index] = now + LOOKUP_AGAIN_S
        server = self.servers[index]
        if numeric(server.name) is None:
            self._aside(lambda: self._find_again(index, server))

    def _find_again(self, index: int, server: Endpoint) -> None:
        """In a thread, as `_look_up`."""
        try:
            self._found_again.append((index, resolve(server.name, after=server)))
        except BadServer:
            self._found_again.append((index, None))

    def collect(self, now: float) -> list[int]:
        """Take what was looked up meanwhile: the servers that are somewhere else from now on.

        To be called often; it also has names looked up that the caller gave and that have not resolved yet.
        """
        if not (self._unresolved or self._found or self._found_again):
            return []
        for index in self._unresolved:
            self._look_up_again(index, now)
        while self._found:
            name, server = self._found.popleft()
            self._lookup_again.pop(name, None)
            if name not in self._learned:
                self._add(name, server)
        moved = []
        while self._found_again:
            index, found = self._found_again.popleft()
            self._look_up_at[index] = now + LOOKUP_MIN_S
            # One that is proven answers where it was.
            if found is not None and found != self.servers[index] and index not in self._proven.values():
                self.place(index, found)
                moved.append(index)
        return moved

    def place(self, index: int, server: Endpoint) -> None:
        """The server has this address from now on."""
        self.servers[index] = server
        if index in self._unresolved:
            self._unresolved.remove(index)
        self._asked.pop(index, None)
        if self._slot_aware:
            self.wake_at = -inf

    def forked(self) -> None:
        """This is another process from now on: what was being looked up never comes."""
        self._look_up_at.clear()
        self._lookup_again.clear()

    def _add(self, member: str, server: Endpoint) -> None:
        known = {(one.family, one.address): index for index, one in enumerate(self.servers)}
        index = known.get((server.family, server.address))
        if index is None:
            index = len(self.servers)
            self.servers.append(server)
        self._learned[member] = index
